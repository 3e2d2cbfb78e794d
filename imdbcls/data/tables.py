"""Read CSV, TSV, JSON Lines and Parquet files into columns, and report the file and line of invalid data."""

import csv
import itertools
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdbcls.data.columns import AUTO, Request, missing_columns
from imdbcls.data.delimited import delimited_rows
from imdbcls.data.json_lines import json_rows, with_nested_keys
from imdbcls.data.layout import layout_of
from imdbcls.data.lines import doubts
from imdbcls.data.parquet import parquet_rows
from imdbcls.data.table import Rows, Table, finished
from imdbcls.data.table_paths import DELIMITED, FORMATS, LINES, require_tables
from imdbcls.data.text_column import TextWriter
from imdbcls.data.text_lines import line_rows, names_in
from imdbcls.errors import UserError

SAMPLE_ROWS = 1000  # rows from which the keys of JSON Lines are collected, and columns are suggested
# The csv module refuses fields over 128 KiB by default; documents may be longer.
csv.field_size_limit(2**31 - 1)


def read_table(path: str | Path | Sequence[str], key: str, request: Request, formats: Sequence[str] = FORMATS) -> Table:
    """Read the requested columns of one or several files.

    `path` is a path, a pattern such as `part-*.csv`, or a list of paths and patterns. The extension of each file must
    be in `formats`, and determines how the file is read. `key` is the config key or option that sets `path`, for
    messages. Raise UserError for a missing, unreadable, truncated or wrongly encoded file, for a missing column, and
    for a broken row.
    """
    paths = require_tables(path, key, formats)
    for each in paths:
        require_columns(each, request)
    numbers = array("q")
    columns = Collector(request)
    files, notes = [], list[tuple[Path, str]]()
    for each in paths:
        found = rows_of(each, request)
        files.append((len(numbers), str(each), found.unit))
        notes += [(each, note) for note in found.notes]
        for number, row in found.rows:
            numbers.append(number)
            columns.add(row, f"{each}, {found.unit}", number)
    several = tuple(files) if len(paths) > 1 else ()
    notes_once = without_repetition(paths, notes)
    return Table(name_of(paths), columns.finish(), found.unit, numbers, notes_once, files=several)


class Collector:
    """Collect the columns of a table from the rows of files. Texts of several columns are joined."""

    def __init__(self, request: Request) -> None:
        texts = request.text_outputs
        self._request = request
        self._classes = {
            name for setting, name in request.columns if setting in ("label_column", "part_column")
        } - texts
        self._columns: dict[str, Any] = {name: TextWriter() if name in texts else [] for name in request.outputs}

    def add(self, row: Mapping[str, object], where: str, number: int) -> None:
        """Add a row. A column that the row lacks gets None. `where` and `number` are its position, for messages."""
        for output, column in self._columns.items():
            value = self._request.cell(row, output, where, number)
            # Rows of the same class share one string.
            column.append(sys.intern(value) if output in self._classes and type(value) is str else value)

    def finish(self) -> dict[str, Sequence[object]]:
        """Return the columns. Call this method after the last row is added."""
        return finished(self._columns)


def name_of(paths: Sequence[Path]) -> str:
    """Return a text that names one or several files in a message."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more"


def without_repetition(paths: Sequence[Path], notes: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
    """Return the notes on several files. A note that applies to several files is returned once."""
    kinds: dict[str, list[Path]] = {}
    for path, note in notes:
        kinds.setdefault(note.removeprefix(f"{path}: "), []).append(path)
    return tuple(f"{name_of(files)}: {note}" for note, files in kinds.items())


def require_columns(path: Path, request: Request) -> None:
    """Raise UserError with all requested columns that a file lacks. Read only the beginning of the file.

    The columns of JSON Lines are all keys in the first `SAMPLE_ROWS` rows.
    """
    found = rows_of(path, request, only_header=True)
    names = found.columns
    sample: list[Mapping[str, object]] = []
    if names is None:
        sample = [with_nested_keys(row) for row in _sample(found)[0]]
        names = list(dict.fromkeys(name for row in sample for name in row))
        if not sample:
            return  # the file is empty or its first row is broken, which is reported when the rows are read
    if missing_columns(request, names, str(path)) is None:
        return
    broken: list[UserError] = []
    if not sample:
        unique = replace(request, columns=tuple(("", name) for name in names if names.count(name) == 1))
        sample, broken = _sample(rows_of(path, unique, only_header=True))
        if broken and not sample and request.encoding == AUTO:  # latin-1 can decode any file
            sample, _ = _sample(rows_of(path, replace(unique, encoding="latin-1"), only_header=True))
    hint = "" if path.suffix.lower() not in DELIMITED else " (the first line names the columns)"
    error = missing_columns(request, names, str(path), rows=sample, hint=hint)
    assert error is not None
    raise UserError(str(error), *map(str, broken))


def _sample(found: Rows) -> tuple[list[Mapping[str, object]], list[UserError]]:
    """Return up to `SAMPLE_ROWS` rows from the start of a file, and a list with the error of the first broken row.

    The rows end before the broken row. The list is empty if no row is broken.
    """
    sample: list[Mapping[str, object]] = []
    try:
        for _, row in itertools.islice(found.rows, SAMPLE_ROWS):
            sample.append(row)
    except UserError as error:
        return sample, [error]
    return sample, []


def rows_of(path: Path, request: Request, *, only_header: bool = False) -> Rows:
    """Return the rows of a file that `require_table` has accepted; missing columns are absent from each row.

    With `only_header`, the quoting of a CSV file is not detected, because this needs the complete file: the columns are
    right, but cells may be wrong. Raise UserError for an unreadable header, and for a requested column that occurs
    twice.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_rows(path, request)
    if suffix in LINES:
        notes = () if only_header else tuple(doubts(path, request))
        return Rows(names_in(request), "line", line_rows(path, request), notes)
    if suffix in DELIMITED:
        layout = layout_of(path, request, only_header=only_header)
        names, rows = delimited_rows(path, layout, request)
        notes = () if only_header else (*doubts(path, request), *layout.notes(path, request))
        return Rows(names, "line", rows, notes)
    return Rows(None, "line", json_rows(path, request), () if only_header else tuple(doubts(path, request)))


def last_number(path: Path) -> int:
    """Return the number of rows in a Parquet file, or the number of lines in a text file."""
    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    num_lines, last = 0, b"\n"
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            num_lines, last = num_lines + chunk.count(b"\n"), chunk[-1:]
    return num_lines + (last != b"\n")


def simple_types(path: Path) -> dict[str, Any]:
    """Return the Arrow types of a Parquet file's columns of numbers, booleans and strings. Text files have no types."""
    if path.suffix.lower() != ".parquet":
        return {}
    from pyarrow import types
    from pyarrow.parquet import read_schema

    simple = (types.is_integer, types.is_floating, types.is_boolean, types.is_string)
    return {field.name: field.type for field in read_schema(path) if any(check(field.type) for check in simple)}
