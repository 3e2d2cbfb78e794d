"""Render a comparison for the terminal and as HTML, Markdown, LaTeX, CSV, JSON and figures.

The views share the sentences in `wording` and the tables in `tables`. `figures` describes every figure; `svg_figures`
draws the figures as SVG for the page, and `paper_figures` draws them as PDF and PNG.
"""
