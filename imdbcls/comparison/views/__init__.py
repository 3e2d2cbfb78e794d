"""Render a comparison for the terminal and as HTML, Markdown, CSV, JSON and figures.

`wording` has the sentences and `tables` the tables that several views share. `figures` describes every figure;
`svg_figures` draws them for the page, and `paper_figures` as PDF and PNG.
"""
