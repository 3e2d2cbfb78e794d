"""How a comparison is shown: terminal, page, tables and figures."""
