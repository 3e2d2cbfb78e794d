"""Write the comparison's files: JSON for tools, Markdown for a paper or a pull request, tidy CSV for a spreadsheet."""

import csv
import io
import re
from typing import Any

from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.printable import csv_cell, json_pretty


def json_text(comparison: dict[str, Any]) -> str:
    return json_pretty(comparison) + "\n"


def markdown_text(comparison: dict[str, Any]) -> str:
    lines = [f"# Comparison of {markdown(comparison['study'])}", "", markdown(comparison["headline"]), ""]
    for table in tables_of(comparison):
        lines += [f"## {markdown(table.question)}", "", *markdown_table(table), ""]
        if table.note:
            lines += [markdown(table.note), ""]
        if table.key == "differences":
            lines += ["![Differences with their intervals](comparison_figures/differences.svg)", ""]
            lines += [*(f"- {markdown(pair['verdict'])}" for pair in shown_pairs(comparison)), ""]
    if comparison["notes"]:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in comparison["notes"]), ""]
    return "\n".join(lines)


def markdown_table(table: Table) -> list[str]:
    rule = ["---" if i < 2 else "---:" for i in range(len(table.header))]
    rows = [[markdown(cell) for cell in row] for row in [table.header, *table.rows]]
    return [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]


def markdown(text: str) -> str:
    """Names are data: whatever Markdown or HTML they hold shows as text."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", escaped)


def csv_text(comparison: dict[str, Any]) -> str:
    """One row per group and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["study", "group", "head", "backbone", "metric", "mean", "std", "n", "low", "high"])
    for group in comparison["groups"]:
        names = [csv_cell(text) for text in (comparison["study"], group["name"], group["head"], group["backbone"])]
        for metric, figures in group["metrics"].items():
            writer.writerow([*names, metric, *(figures[key] for key in ("mean", "std", "n", "low", "high"))])
        for cost, value in group["cost"].items():
            writer.writerow([*names, cost, value, "", len(group["seeds"]), "", ""])
    return file.getvalue()
