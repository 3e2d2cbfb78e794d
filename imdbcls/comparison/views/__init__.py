"""Render a comparison: terminal, HTML page, Markdown, CSV, JSON and figures; `wording` has the sentences.

`figures` describes every figure; `svg_figures` draws it for the page, `paper_figures` as PDF and PNG.
"""
