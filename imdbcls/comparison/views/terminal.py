"""The comparison as plain text for a terminal of any width."""

import shutil
import textwrap
from typing import Any

from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.tables import Table, tables_of


def terminal_text(comparison: dict[str, Any]) -> str:
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    blocks = [wrapped(comparison["headline"], width)]
    for table in tables_of(comparison):
        blocks.append(
            "\n".join([table.question, *aligned(table)]) + (f"\n{wrapped(table.note, width)}" if table.note else "")
        )
        if table.key == "differences":
            blocks.append(
                "Verdicts\n" + "\n".join(wrapped(f"- {pair['verdict']}", width) for pair in shown_pairs(comparison))
            )
    errors, hard = comparison["label_errors"]["count"], comparison["wrong_for_all"]["count"]
    blocks.append(
        wrapped(
            f"{errors:,} labels look wrong (every group contradicts them); {hard:,} documents no run got right.", width
        )
    )
    if comparison["notes"]:
        blocks.append("Notes\n" + "\n".join(wrapped(f"- {note}", width) for note in comparison["notes"]))
    return "\n\n".join(blocks)


def aligned(table: Table) -> list[str]:
    """Columns to their widest cell; the first text columns to the left, figures to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    left = {i for i in range(len(widths)) if i <= (1 if table.header[0] == "" else 0)}
    texts = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "─" * max(len(text) for text in texts), *texts[1:]]


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  " if text.startswith("- ") else ""))
