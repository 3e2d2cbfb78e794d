"""Read CSV, TSV, JSON Lines and Parquet files into columns, and report the file and line of invalid data."""

import csv
import itertools
import json
import os
import sys
from array import array
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imdbcls.data.columns import AUTO, Request, listed, missing_columns, positions_of
from imdbcls.data.delimited import delimited_rows
from imdbcls.data.layout import layout_of
from imdbcls.data.lines import doubts, lines_of
from imdbcls.data.text_column import TextWriter, take
from imdbcls.data.text_lines import line_rows, names_in
from imdbcls.errors import UserError
from imdbcls.runtime.file_patterns import is_pattern, matching_files

DELIMITED = (".csv", ".tsv")
LINES = (".txt",)  # one text per line: allowed for documents without labels
TEXT_FILES = (*DELIMITED, ".jsonl", ".ndjson", *LINES)
FORMATS = (*DELIMITED, ".jsonl", ".ndjson", ".parquet")
# Advice for some other file types.
INSTEAD = {
    ".gz": "unpack it first (gunzip)",
    ".zip": "unpack it first",
    ".json": "write one JSON object per line and name it .jsonl",
    ".xlsx": "save the sheet as CSV (UTF-8)",
    ".txt": "convert it to a CSV file with a header and quoted texts",
}
PARQUET_BATCH = 1000  # rows of a Parquet file to read at a time
MAX_PAGE_BYTES = 2**29  # uncompressed size of a Parquet page; pages usually have about 1 MB
SAMPLE_ROWS = 1000  # rows in which the keys of JSON Lines are searched, and from which columns are suggested
MAX_DEPTH = 5  # levels of nested JSON objects whose keys an error message lists
ONE_PER_LINE = "JSON Lines has one object per line"

# The csv module refuses fields over 128 KiB by default; documents may be longer.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """The rows of one or several files, with their positions in the files for messages.

    `columns` maps a column's name to its values; all columns have the same length, and missing values are None. `unit`
    is "line" for text files and "row" for all others. `numbers[i]` is the number of row i in this unit, counted from
    1. `notes` are messages about how the files were read, to log. If the table has the rows of several files, `files`
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
        """Return the index of a row among all rows that were read, from 0. With several files, it continues."""
        return row if self.indices is None else self.indices[row]

    def take(self, rows: Sequence[int], note: str) -> "Table":
        """Return a table with the rows at `rows` and one more note."""
        columns = {name: take(values, rows) for name, values in self.columns.items()}
        numbers, indices = [self.numbers[row] for row in rows], [self.index(row) for row in rows]
        return Table(self.name, columns, self.unit, numbers, (*self.notes, note), indices, self.files)


@dataclass(frozen=True)
class Rows:
    """The rows of a file, read one by one.

    `rows` yields pairs (number, cells by column name); the number is as in `Table.numbers`. The cells are those of the
    requested columns that the file has, or in JSON Lines all keys of the line. The iterator raises UserError when it
    reaches a broken row. `columns` are the columns of the file; None for JSON Lines, where rows may have different
    keys.
    """

    columns: Sequence[str] | None
    unit: str
    rows: Iterator[tuple[int, Mapping[str, object]]]
    notes: tuple[str, ...] = ()


def read_table(path: str | Path | Sequence[str], key: str, request: Request, formats: Sequence[str] = FORMATS) -> Table:
    """Read the requested columns of one or several files, each in the format of its extension, one of `formats`.

    `path` is a path, a pattern such as `part-*.csv`, or a list of these. `key` is the config key or option that sets
    it, for messages. Raise UserError for a missing, unreadable, truncated or wrongly encoded file, for a missing
    column, and for a broken row.
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
        """Add a row, in which missing columns are absent. `where` and `number` are its position, for messages."""
        for output, column in self._columns.items():
            value = self._request.cell(row, output, where, number)
            # One string per class, not per row.
            column.append(sys.intern(value) if output in self._classes and type(value) is str else value)

    def finish(self) -> dict[str, Sequence[object]]:
        """Return the columns after the last row."""
        return finished(self._columns)


def name_of(paths: Sequence[Path]) -> str:
    """Return the name of one or several files for messages."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more"


def without_repetition(paths: Sequence[Path], notes: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
    """Return the notes on several files. A note that applies to several files is returned once."""
    kinds: dict[str, list[Path]] = {}
    for path, note in notes:
        kinds.setdefault(note.removeprefix(f"{path}: "), []).append(path)
    return tuple(f"{name_of(files)}: {note}" for note, files in kinds.items())


def finished(columns: Mapping[str, Any]) -> dict[str, Sequence[object]]:
    """Return columns after all values are appended to them."""
    return {name: values.finish() if isinstance(values, TextWriter) else values for name, values in columns.items()}


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
        if broken and not sample and request.encoding == AUTO:  # a one-byte encoding reads any file
            sample, _ = _sample(rows_of(path, replace(unique, encoding="latin-1"), only_header=True))
    hint = "" if path.suffix.lower() not in FORMATS[:2] else " (the first line names the columns)"
    error = missing_columns(request, names, str(path), rows=sample, hint=hint)
    assert error is not None
    raise UserError(str(error), *map(str, broken))


def _sample(found: Rows) -> tuple[list[Mapping[str, object]], list[UserError]]:
    """Return the first `SAMPLE_ROWS` rows of a file, or fewer if a broken row comes first, and the error for this row.

    If nothing else is wrong, the error is reported when the complete file is read.
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
        return _parquet_rows(path, request)
    if suffix in LINES:
        notes = () if only_header else tuple(doubts(path, request))
        return Rows(names_in(request), "line", line_rows(path, request), notes)
    if suffix in DELIMITED:
        layout = layout_of(path, request, only_header=only_header)
        names, rows = delimited_rows(path, layout, request)
        notes = () if only_header else (*doubts(path, request), *layout.notes(path, request))
        return Rows(names, "line", rows, notes)
    return Rows(None, "line", _jsonl_rows(path, request), () if only_header else tuple(doubts(path, request)))


def last_number(path: Path) -> int:
    """Return the number of rows in a Parquet file, or the number of lines in a text file."""
    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))


def simple_types(path: Path) -> dict[str, Any]:
    """Return the Arrow types of a Parquet file's columns of numbers, booleans and strings. Text files have no types."""
    if path.suffix.lower() != ".parquet":
        return {}
    from pyarrow import types
    from pyarrow.parquet import read_schema

    simple = (types.is_integer, types.is_floating, types.is_boolean, types.is_string)
    return {field.name: field.type for field in read_schema(path) if any(check(field.type) for check in simple)}


def require_table(path: Any, key: str, formats: Sequence[str] = FORMATS) -> Path:
    """Return the path of a file with one of the extensions `formats`. Do not open it.

    Raise UserError for anything else.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{key}={path} is not the path of a file.")
    place = Path(os.path.expanduser(path))
    if os.path.isdir(place):  # unlike Path.is_dir, os.path.isdir accepts any string (too long, with a NUL, ~nobody)
        raise UserError(f"{key}={path} is a folder; choose a file in it ({', '.join(formats)}).")
    suffix = place.suffix.lower()
    if suffix not in formats:
        advice = f"; {INSTEAD[suffix]}" if suffix in INSTEAD else ""
        raise UserError(f"{key}={path} has no supported extension ({', '.join(formats)}){advice}.")
    if not os.path.isfile(place):
        raise UserError(f"{key}={path} does not exist or is not a regular file.")
    return place


def require_tables(value: Any, key: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Return the paths of the files that a path, a pattern or a list of these names, in order, without opening them.

    The files that a pattern matches are sorted by path. Raise UserError as `require_table` does, for a pattern without
    a match, and for a file that is named twice.
    """
    entries = list(value) if isinstance(value, list | tuple) else [value]
    if not entries:
        raise UserError(f"{key}=[] names no file.")
    found: list[Path] = []
    for entry in entries:
        if isinstance(entry, str) and is_pattern(entry) and not matching_files(entry):
            raise UserError(f"{key}={entry} matches no file.")
        names = matching_files(entry) if isinstance(entry, str) and entry else [entry]
        found += [require_table(name, key, formats) for name in names]
    if len(found) > 1:
        seen: dict[str, Path] = {}
        for path in found:
            if seen.setdefault(os.path.realpath(path), path) is not path:
                raise UserError(f"{key} names {path} twice.")
    return found


def read_parquet(paths: Sequence[Path], names: Sequence[str], text_column: str) -> Table:
    """Read the shards of one split as one table. A column in `names` is absent from the table if no shard has it.

    `text_column` is the name of the column with the texts. Row numbers continue from one shard to the next. Raise
    UserError if only some shards have a column.
    """
    request = Request(tuple(("", name) for name in names))
    columns: dict[str, Any] | None = None
    num_rows = 0
    for path in paths:
        found, batches = _parquet_batches(path, request)
        present = [name for name in names if name in found]
        if columns is None:
            columns = {name: TextWriter() if name == text_column else [] for name in present}
        if list(columns) != present:
            raise UserError(
                f"{path} has the columns {listed(present)}, but {paths[0]} has {listed(list(columns))}; all shards of "
                "a split must have the same columns."
            )
        for size, batch in batches:
            num_rows += size
            for name, values in batch.items():
                columns[name].extend(values)
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Table(name, finished(columns or {}), "row", range(1, num_rows + 1))


def _parquet_rows(path: Path, request: Request) -> Rows:
    names, batches = _parquet_batches(path, request)

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        number = 0
        for size, batch in batches:
            for row in range(size):
                number += 1
                yield number, {name: values[row] for name, values in batch.items()}

    return Rows(names, "row", rows())


def _parquet_batches(
    path: Path, request: Request
) -> tuple[Sequence[str], Iterator[tuple[int, Mapping[str, list[object]]]]]:
    """Return the names of all columns, and an iterator over pairs (number of rows, values of the requested columns)."""
    import pyarrow as pa
    import pyarrow.parquet

    def damaged(error: Exception) -> UserError:
        detail = " ".join(str(error).split())
        return UserError(f"{path} is not a complete Parquet file ({detail}). Write or download it again.")

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(error) from error
    names = file.schema_arrow.names
    positions = positions_of(request, names, str(path))
    written = {name: names[index] for name, index in positions.items()}

    def batches() -> Iterator[tuple[int, Mapping[str, list[object]]]]:
        try:
            for row_group in range(file.num_row_groups):  # over all at once, pyarrow keeps the complete file in memory
                for batch in file.iter_batches(PARQUET_BATCH, row_groups=[row_group], columns=list(written.values())):
                    yield batch.num_rows, {name: values_of(batch, column) for name, column in written.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(error) from error

    def values_of(batch: pa.RecordBatch, name: str) -> list[object]:
        try:
            return batch[name].to_pylist()
        except (ValueError, OverflowError, KeyError) as error:  # a date after the year 9999, two fields with one name
            raise UserError(f"{path}: column {name!r} has a value that Python cannot represent: {error}.") from error

    require_small_pages(path, file, list(written.values()))
    return names, batches()


def require_small_pages(path: Path, file: Any, names: Sequence[str]) -> None:
    """Raise UserError if a page of a Parquet file expands to more than `MAX_PAGE_BYTES`.

    A page is always expanded completely in memory, even to read a single row. A file whose pages cannot be parsed here
    is left to pyarrow, because the user's own file may come from any writer.
    """
    from imdbcls.runs.parquet_pages import PagesError, columns_of

    try:
        columns = columns_of(path, file.metadata, names)
    except PagesError:
        return
    for column in columns.values():
        if column.largest_page > MAX_PAGE_BYTES:
            raise UserError(
                f"{path}: column {column.path!r} has a page that expands to {column.largest_page:,} bytes, more than "
                f"the allowed {MAX_PAGE_BYTES:,}. Write the file again with smaller pages, for example with pandas."
            )


def _jsonl_rows(path: Path, request: Request) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the number and the JSON object of each line that is not blank."""
    repeated: set[str] = set()  # keys that occur twice in the object that was parsed last: the outermost object

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        repeated.clear()
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.update(name for name in value if names.count(name) > 1)
        return value

    # Do not use str.splitlines: it would also split at U+2028, which JSON strings may contain.
    for number, line in enumerate(lines_of(path, request), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number:,} is not valid JSON ({error.msg}, column {error.colno}); {ONE_PER_LINE}."
            ) from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or a thousand nested brackets
            raise UserError(f"{path}, line {number:,}: this JSON value is too large to parse ({error}).") from error
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number:,}: expected a JSON object, found {type(value).__name__}; {ONE_PER_LINE}."
            )
        for setting, name in request.columns:
            if name not in value and "." in name:
                value |= nested_cell(value, name)
            if name in repeated:
                raise UserError(f"{path}, line {number:,}: key {name!r} ({request.key(setting)}) occurs twice.")
        yield number, value


def nested_cell(row: Mapping[str, object], name: str) -> dict[str, object]:
    """Return {name: value} for a key in nested JSON objects, such as `review.body`; {} if it does not exist.

    A key may contain dots itself: in `{"a.b": {"c": 1}}`, `a.b.c` is 1. If several objects have the key, the complete
    name as a key of the row comes first, and then the shortest first part.
    """
    if name in row:
        return {name: row[name]}
    for position, character in enumerate(name):
        inner = row.get(name[:position]) if character == "." else None
        if isinstance(inner, dict) and (found := nested_cell(inner, name[position + 1 :])):
            return dict.fromkeys([name], *found.values())
    return {}


def with_nested_keys(row: Mapping[str, object], depth: int = MAX_DEPTH) -> dict[str, object]:
    """Return a JSON object, and all keys of nested objects as dotted keys. An existing key with a dot is kept."""
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, dict) and depth > 1:
            for inner, cell in with_nested_keys(value, depth - 1).items():
                found.setdefault(f"{name}.{inner}", cell)
    return found
