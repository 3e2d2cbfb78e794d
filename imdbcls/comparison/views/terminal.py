"""The terminal output of a comparison, as plain text."""

import shutil
import textwrap

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.tables import tables_of
from imdbcls.comparison.views.wording import headline, verdict
from imdbcls.runtime.text_table import text_table


def terminal_text(comparison: Comparison, table_width: int | None = None) -> str:
    """Return the headline, tables, verdicts and notes. If `table_width` is given, tables wrap to this many columns."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    blocks = [wrapped(headline(comparison), width)]
    for table in tables_of(comparison):
        lines = [table.question, text_table(table.rows, table.header, table.num_text_columns, table_width)]
        blocks.append("\n".join([*lines, wrapped(table.note, width)] if table.note else lines))
        if table.key == "differences":
            verdicts = [verdict(pair, comparison.metric) for pair in shown_pairs(comparison)]
            blocks.append("Verdicts\n" + "\n".join(wrapped(f"- {sentence}", width) for sentence in verdicts))
    mistakes = f"Documents that every run misclassifies: {len(comparison.wrong_for_all):,}."
    if comparison.label_errors is not None:
        mistakes = (
            "Suspected label errors (all groups confidently predict the same class, which is not the label): "
            f"{len(comparison.label_errors):,}. {mistakes}"
        )
    blocks.append(wrapped(mistakes, width))
    if comparison.notes:
        blocks.append("Notes\n" + "\n".join(wrapped(f"- {note}", width) for note in comparison.notes))
    return "\n\n".join(blocks)


def wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  " if text.startswith("- ") else ""))
