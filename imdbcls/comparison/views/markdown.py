"""A comparison as Markdown, for a paper or a pull request."""

import re

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.advice import advice
from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.facts import facts_line
from imdbcls.comparison.views.paragraph import paragraph
from imdbcls.comparison.views.tables import Table, ranking, tables_of
from imdbcls.comparison.views.wording import headline, verdict


def markdown_text(comparison: Comparison) -> str:
    lines = [f"# Comparison of {markdown(comparison.study)}", ""]
    lines += [markdown(headline(comparison)), "", markdown(facts_line(comparison)), ""]
    for table in tables_of(comparison):
        lines += [f"## {markdown(table.question)}", "", *markdown_table(table), ""]
        if table.note:
            lines += [markdown(table.note), ""]
        if table.key == "differences":
            lines += ["![Differences with their simultaneous 95 % intervals](comparison_figures/differences.svg)", ""]
            lines += [*(f"- {markdown(verdict(pair, comparison.metric))}" for pair in shown_pairs(comparison)), ""]
            lines += [line for sentence in advice(comparison) for line in (markdown(sentence), "")]
    lines += ["## For a paper", "", markdown(paragraph(comparison)), ""]
    lines += ["`comparison.tex` contains the groups and the pairs as LaTeX tables.", ""]
    if comparison.notes:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in comparison.notes), ""]
    return "\n".join(lines)


def verdict_markdown(comparison: Comparison) -> str:
    """Return the headline, the facts, the ranking, the verdicts on the shown pairs, and the notes."""
    best = ranking(comparison).without_empty_columns()
    blocks = [
        [f"**{markdown(headline(comparison))}**"],
        [markdown(facts_line(comparison))],
        markdown_table(best),
        [f"- {markdown(verdict(pair, comparison.metric))}" for pair in shown_pairs(comparison)],
        [f"- Note: {markdown(note)}" for note in comparison.notes],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def markdown_table(table: Table) -> list[str]:
    rule = ["---" if i < 2 else "---:" for i in range(len(table.header))]
    rows = [[markdown(cell) for cell in row] for row in [table.header, *table.rows]]
    return [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]


def markdown(text: str) -> str:
    """Escape Markdown and HTML in the text, so that names are shown literally."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", escaped)
