"""The summary of a tuning study for a terminal."""

from imdbcls.comparison.tuning_results import TuningResults
from imdbcls.comparison.views.tables import Table
from imdbcls.comparison.views.terminal import text_width
from imdbcls.comparison.views.tuning_tables import budgets, cautions, expectations, headline, hours_sentence, notes
from imdbcls.runtime.text_table import text_table, wrapped


def tuning_text(results: TuningResults, width: int | None = None) -> str:
    """Return the leaders, the caveats about their lead, the budgets, the expectations (if any) and the notes.

    `width` is the width of the terminal in characters, or None if the text is not written to a terminal.
    """
    columns = text_width(width)
    leaders = [sentence for sentence in (headline(results), hours_sentence(results)) if sentence]
    blocks = [
        "\n".join(wrapped(sentence, columns) for sentence in leaders),
        *(["\n".join(wrapped(sentence, columns) for sentence in limits)] if (limits := cautions(results)) else []),
        table_text(budgets(results).without(7), columns),
        *([table_text(expectations(results), columns)] if any(group.expected for group in results.groups) else []),
        *(["\n".join(wrapped(note, columns, "- ") for note in reading)] if (reading := notes(results)) else []),
    ]
    return "\n\n".join(blocks)


def table_text(table: Table, columns: int) -> str:
    cells = text_table(table.rows, table.header, table.num_text_columns, columns)
    return f"{cells}\n{wrapped(table.note, columns)}"
