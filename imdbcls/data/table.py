"""Tables of documents: columns, and the position of each row for messages."""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imdbcls.data.text_column import TextWriter, take


@dataclass(frozen=True)
class Table:
    """The rows of one or several files, with their positions in the files for messages.

    `columns` maps a column's name to its values; all columns have the same length, and missing values are None. `unit`
    is "line" for text files and "row" for all others. `numbers[i]` is the number of row i in this unit, counted from
    1. `notes` are messages to log about how the files were read. If the table has the rows of several files, `files`
    contains the index of each file's first row, its name and its unit.
    """

    name: str
    columns: Mapping[str, Sequence[object]]
    unit: str
    numbers: Sequence[int]
    notes: tuple[str, ...] = ()
    indices: Sequence[int] | None = None  # index of each row as read, from 0; None means 0, 1, ...
    files: tuple[tuple[int, str, str], ...] = ()

    def where(self, row: int) -> str:
        """Return the position of a row for messages, such as `line 12`. With several files, it includes the file."""
        if not self.files:
            return f"{self.unit} {self.numbers[row]:,}"
        _, name, unit = self.files[bisect([start for start, _, _ in self.files], self.index(row)) - 1]
        return f"{name}, {unit} {self.numbers[row]:,}"

    def place(self, row: int) -> str:
        """Return the file and the position of a row for messages, such as `reviews.csv, line 12`."""
        return self.where(row) if self.files else f"{self.name}, {self.where(row)}"

    def index(self, row: int) -> int:
        """Return the index of a row among all rows that were read, counted from 0 over all files."""
        return row if self.indices is None else self.indices[row]

    def take(self, rows: Sequence[int], note: str) -> "Table":
        """Return a table with the rows at `rows` and one more note."""
        columns = {name: take(values, rows) for name, values in self.columns.items()}
        numbers, indices = [self.numbers[row] for row in rows], [self.index(row) for row in rows]
        return Table(self.name, columns, self.unit, numbers, (*self.notes, note), indices, self.files)


@dataclass(frozen=True)
class Rows:
    """The rows of a file, read one by one.

    `rows` yields pairs (number, cells keyed by column name), numbered as in `Table.numbers`. The cells are the
    requested columns that the file has; in JSON Lines, they are all keys of the line. The iterator raises UserError
    when it reaches a broken row. `columns` are the columns of the file; None for JSON Lines, where rows may have
    different keys.
    """

    columns: Sequence[str] | None
    unit: str
    rows: Iterator[tuple[int, Mapping[str, object]]]
    notes: tuple[str, ...] = ()


def finished(columns: Mapping[str, Any]) -> dict[str, Sequence[object]]:
    """Return the complete columns, with each `TextWriter` replaced by its texts."""
    return {name: values.finish() if isinstance(values, TextWriter) else values for name, values in columns.items()}
