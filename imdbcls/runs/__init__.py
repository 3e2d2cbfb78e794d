"""The run folder: its files, its identity, and reading folders that may come from a stranger."""
