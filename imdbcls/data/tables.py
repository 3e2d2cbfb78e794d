"""Reads CSV, TSV, JSON Lines and Parquet files into columns, and names file and line of what cannot be read."""

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imdbcls.data.columns import Request, listed, missing_columns, positions_of
from imdbcls.data.delimited import delimited_rows
from imdbcls.data.layout import layout_of
from imdbcls.data.lines import lines_of
from imdbcls.errors import UserError

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# What to do with some that are not.
INSTEAD = {
    ".gz": "unpack it first (gunzip)",
    ".zip": "unpack it first",
    ".json": "write one JSON object a line and name it .jsonl",
    ".xlsx": "save the sheet as CSV (UTF-8)",
    ".txt": "give it a header, quotes around texts and the name .csv",
}
ROWS_AT_ONCE = 1000  # of Parquet
MAX_PAGE_BYTES = 2**29  # of Parquet, unpacked; writers make pages of about 1 MB
PEEKED = 1000  # rows of JSON Lines whose keys are looked at, and rows from which columns are suggested
ONE_A_LINE = "JSON Lines has one object a line"

# The csv module refuses fields over 128 KiB unless told otherwise; documents may be longer.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """Rows as read, with the names by which the user can find them.

    `columns` maps a column's name to its values, all of the same length, None where a value is missing.
    `numbers[i]` is row i's number in the file: a line for text files, a row counted from 1 for Parquet.
    `notes` are sentences for the user about how the file was read.
    """

    name: str
    columns: Mapping[str, Sequence[object]]
    unit: str
    numbers: Sequence[int]
    notes: tuple[str, ...] = ()
    indices: Sequence[int] | None = None  # each row's place in the file, from 0; None: 0, 1, ...

    def where(self, row: int) -> str:
        """Name a row as the user finds it, e.g. `line 12`."""
        return f"{self.unit} {self.numbers[row]:,}"

    def index(self, row: int) -> int:
        """Return the row's place in the file, from 0."""
        return row if self.indices is None else self.indices[row]

    def take(self, rows: Sequence[int], note: str) -> "Table":
        """Return the table with some of its rows, and a further note."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        numbers, indices = [self.numbers[row] for row in rows], [self.index(row) for row in rows]
        return Table(self.name, columns, self.unit, numbers, (*self.notes, note), indices)


@dataclass(frozen=True)
class Rows:
    """A file's rows, read one by one: the number of each, as in a `Table`, and its cells by column.

    `columns` are the file's, or None where each row has its own (JSON Lines). A row holds at least those requested,
    except in JSON Lines, where it holds what its line has. A broken row raises UserError when its turn comes.
    """

    columns: Sequence[str] | None
    unit: str
    rows: Iterator[tuple[int, Mapping[str, object]]]
    notes: tuple[str, ...] = ()


def read_table(path: str | Path, key: str, request: Request) -> Table:
    """Read the requested columns of one file, in the format of its extension (see `FORMATS`).

    `key` is the config key that gave the path, for messages. Raises UserError for a missing, empty,
    unreadable, truncated or wrongly encoded file, a missing column and a broken row, which it names.
    """
    path = require_table(path, key)
    require_columns(path, request)
    found = rows_of(path, request)
    numbers: list[int] = []
    columns: dict[str, list[object]] = {name: [] for name in request.names}
    for number, row in found.rows:
        numbers.append(number)
        for name, values in columns.items():
            values.append(row.get(name))
    return Table(str(path), columns, found.unit, numbers, found.notes)


def require_columns(path: Path, request: Request) -> None:
    """Raise UserError where a file lacks requested columns; it names all of them. Reads the beginning of the file.

    JSON Lines may have different keys in each row: the first thousand rows are read.
    """
    found = rows_of(path, request, only_header=True)
    names = found.columns
    sample: list[Mapping[str, object]] = []
    if names is None:
        sample = _sample(found)
        names = list(dict.fromkeys(name for row in sample for name in row))
        if not sample:
            return  # no rows: that is another mistake
    if missing_columns(request, names, str(path)) is None:
        return
    if not sample:
        everything = Request(tuple(("", name) for name in names if names.count(name) == 1), **_how(request))
        sample = _sample(rows_of(path, everything, only_header=True))
    hint = "" if path.suffix.lower() not in FORMATS[:2] else " (the first line names the columns)"
    error = missing_columns(request, names, str(path), rows=sample, hint=hint)
    assert error is not None
    raise error


def _how(request: Request) -> dict[str, Any]:
    return {"delimiter": request.delimiter, "quoting": request.quoting, "as_options": request.as_options}


def _sample(found: Rows) -> list[Mapping[str, object]]:
    """The first rows of a file, up to one that is broken."""
    sample = []
    try:
        for _, row in itertools.islice(found.rows, PEEKED):
            sample.append(row)
    except UserError:
        pass  # it is named when the file is read
    return sample


def rows_of(path: Path, request: Request, *, only_header: bool = False) -> Rows:
    """The rows of a file that `require_table` has let pass. A column that is missing is absent from each row.

    `only_header` saves looking at a whole CSV file first; its rows may then be wrong. Raises UserError for a header
    that cannot be read, and for a requested column that occurs twice.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, request)
    if suffix in (".csv", ".tsv"):
        layout = layout_of(path, request, only_header=only_header)
        names, rows = delimited_rows(path, layout, request)
        return Rows(names, "line", rows, tuple(layout.notes(path, request)))
    return Rows(None, "line", _jsonl_rows(path, request))


def require_table(path: Any, key: str) -> Path:
    """The path of a file that `read_table` may read. Raises UserError for anything else, without opening it."""
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{key}={path} is not the path of a file.")
    place = Path(os.path.expanduser(path))
    if os.path.isdir(place):  # unlike Path's, it takes any text: too long, with a NUL, ~nobody
        raise UserError(f"{key}={path} is a folder; give the file in it, {', '.join(FORMATS)}.")
    suffix = place.suffix.lower()
    if suffix not in FORMATS:
        advice = f"; {INSTEAD[suffix]}" if suffix in INSTEAD else ""
        raise UserError(f"{key}={path} is not a file this reads: the name must end in {', '.join(FORMATS)}{advice}.")
    if not os.path.isfile(place):
        raise UserError(f"{key}={path}: there is no such file.")
    return place


def read_parquet(paths: Sequence[Path], names: Sequence[str]) -> Table:
    """Read the shards of one split as one table; of the columns `names`, those that each shard has.

    Rows are counted over all shards. Raises UserError where some shards lack a column that others have.
    """
    request = Request(tuple(("", name) for name in names))
    columns: dict[str, list[object]] | None = None
    num_rows = 0
    for path in paths:
        found, batches = _parquet_batches(path, request)
        present = [name for name in names if name in found]
        columns = {name: [] for name in present} if columns is None else columns
        if list(columns) != present:
            raise UserError(f"{path} has the columns {listed(present)}, and {paths[0]} has {listed(list(columns))}.")
        for size, batch in batches:
            num_rows += size
            for name, values in batch.items():
                columns[name].extend(values)
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Table(name, columns or {}, "row", range(1, num_rows + 1))


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
    """The names of all columns, and the values of the requested ones, some rows at a time with their number."""
    import pyarrow as pa
    import pyarrow.parquet

    def damaged(error: Exception) -> UserError:
        detail = " ".join(str(error).split())
        return UserError(f"{path} is not a whole Parquet file (cut off or damaged?): {detail}")

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(error) from error
    names = file.schema_arrow.names
    positions = positions_of(request, names, str(path))
    written = {name: names[place] for name, place in positions.items()}

    def batches() -> Iterator[tuple[int, Mapping[str, list[object]]]]:
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(written.values())):
                yield batch.num_rows, {name: values_of(batch, column) for name, column in written.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(error) from error

    def values_of(batch: pa.RecordBatch, name: str) -> list[object]:
        try:
            return batch[name].to_pylist()
        except (ValueError, OverflowError, KeyError) as error:  # a date past the year 9999, two fields of one name
            raise UserError(f"{path}: column {name!r} holds what Python has no value for: {error}.") from error

    require_honest_pages(path, file, list(written.values()))
    return names, batches()


def require_honest_pages(path: Path, file: Any, names: Sequence[str]) -> None:
    """Refuse (UserError) a page that expands to gigabytes: it is in memory at once, however few rows are read.

    A file whose pages cannot be followed here is left to its reader, for the user's own may come from any writer.
    """
    from imdbcls.runs.parquet_pages import PagesError, columns_of

    try:
        columns = columns_of(path, file.metadata, names)
    except PagesError:
        return
    for column in columns.values():
        if column.largest_page > MAX_PAGE_BYTES:
            raise UserError(
                f"{path}: column {column.path!r} has a page that expands to {column.largest_page:,} bytes; at most "
                f"{MAX_PAGE_BYTES:,} are read. Write the file again with smaller pages, as pandas does."
            )


def _jsonl_rows(path: Path, request: Request) -> Iterator[tuple[int, Mapping[str, object]]]:
    """One JSON object a line; blank lines are skipped, a key that a line lacks is missing there."""
    repeated: set[str] = set()  # keys that the object read last has twice; the outermost is read last

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        repeated.clear()
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.update(name for name in value if names.count(name) > 1)
        return value

    # A line of the file, not of the text: str.splitlines also splits at U+2028, which JSON strings may hold.
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number:,}: not a JSON value ({error.msg}, column {error.colno}); {ONE_A_LINE}."
            ) from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
            raise UserError(f"{path}, line {number:,}: this JSON value is beyond reading ({error}).") from error
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number:,}: expected a JSON object, found {type(value).__name__}; {ONE_A_LINE}."
            )
        for setting, name in request.columns:
            if name in repeated:
                raise UserError(f"{path}, line {number:,}: key {name!r} ({request.key(setting)}) occurs twice.")
        yield number, value
