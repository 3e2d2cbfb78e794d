"""The comparison as plain text for a terminal of any width."""

import shutil
import textwrap

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.tables import Table, tables_of
from imdbcls.comparison.views.wording import headline, verdict


def terminal_text(comparison: Comparison) -> str:
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    blocks = [wrapped(headline(comparison), width)]
    for table in tables_of(comparison):
        blocks.append(
            "\n".join([table.question, *aligned(table)]) + (f"\n{wrapped(table.note, width)}" if table.note else "")
        )
        if table.key == "differences":
            blocks.append(
                "Verdicts\n" + "\n".join(wrapped(f"- {verdict(pair)}", width) for pair in shown_pairs(comparison))
            )
    blocks.append(
        wrapped(
            f"{len(comparison.label_errors):,} labels look wrong (every group contradicts them); "
            f"{len(comparison.wrong_for_all):,} documents that no run got right.",
            width,
        )
    )
    if comparison.notes:
        blocks.append("Notes\n" + "\n".join(wrapped(f"- {note}", width) for note in comparison.notes))
    return "\n\n".join(blocks)


def aligned(table: Table) -> list[str]:
    """Pad columns to their widest cell: text to the left, figures to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    texts = [
        "  ".join(
            cell.ljust(width) if i < table.num_text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "─" * max(len(text) for text in texts), *texts[1:]]


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  " if text.startswith("- ") else ""))
