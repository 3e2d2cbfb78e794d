"""Render a comparison: terminal, HTML page, Markdown, CSV, JSON and SVG figures; `wording` has the sentences."""
