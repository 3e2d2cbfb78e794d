"""Reads CSV, TSV, JSON Lines and Parquet files into columns, and names file and line of what cannot be read."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
MOST_NAMED = 30  # columns in one sentence
LOOKS_LIKE = {"UTF-16": (b"\xff\xfe", b"\xfe\xff"), "gzip": (b"\x1f\x8b",)}  # by a file's first bytes
ONE_A_LINE = "JSON Lines has one object a line"

# The csv module refuses fields over 128 KiB unless told otherwise; documents may be longer.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Table:
    """Rows as read, with the names by which the user can find them.

    `columns` maps a column's name to its values, all of the same length, None where a value is missing.
    `numbers[i]` is row i's number in the file: a line for text files, a row counted from 1 for Parquet.
    """

    name: str
    columns: Mapping[str, Sequence[object]]
    unit: str
    numbers: Sequence[int]

    def where(self, row: int) -> str:
        """Name a row as the user finds it, e.g. `line 12`."""
        return f"{self.unit} {self.numbers[row]:,}"

    def column(self, name: str, key: str) -> Sequence[object]:
        """Return a column. Raises UserError with the columns there are; `key` is the config key that names it."""
        require_column(name, self.columns, key, self.name)
        return self.columns[name]


@dataclass(frozen=True)
class Rows:
    """A file's rows, read as they are wanted: the number of each, as a `Table` has them, and its cells by column.

    `columns` are those of every row, or None where each row has its own (JSON Lines). What is wrong with a row raises
    UserError when its turn comes.
    """

    columns: Sequence[str] | None
    unit: str
    rows: Iterator[tuple[int, Mapping[str, object]]]


def require_column(name: str, columns: Iterable[str], key: str, file: str) -> None:
    """Raises UserError for a column that is not there, with those that are; `key` is what the user named it by."""
    names = list(columns)
    if name in names:
        return
    hint = separator_hint(names) or (" (the first line names the columns)" if file.endswith(FORMATS[:2]) else "")
    raise UserError(f"{file} has no column {name!r} ({key}); it has {listed(names)}{hint}.")


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(repr(name[:80]) for name in names[:MOST_NAMED]) + more


def separator_hint(header: Sequence[str]) -> str:
    """What to do where the header's only column looks like several, in words."""
    only = header[0] if len(header) == 1 else ""
    if "\t" in only:
        return " (separated by tabs? then name it .tsv)"
    return " (separated by semicolons? save it with commas)" if ";" in only else ""


def read_table(path: str | Path, key: str) -> Table:
    """Read one file, its format told by its ending (see `FORMATS`).

    `key` is the config key that gave the path, for messages. Raises UserError for a missing, empty,
    unreadable, truncated or wrongly encoded file and for a broken row, which it names.
    """
    path = require_table(path, key)
    if path.suffix.lower() == ".parquet":
        return read_parquet([path])
    found = rows_of(path)
    numbers, rows = [], []
    for number, row in found.rows:
        numbers.append(number)
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row) if found.columns is None else found.columns
    return Table(str(path), {name: [row.get(name) for row in rows] for name in names}, found.unit, numbers)


def rows_of(path: Path, wanted: str | None = None) -> Rows:
    """The rows of a file that `require_table` has let pass; of Parquet the `wanted` column alone, where one is.

    Raises UserError for a header that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path, wanted)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, delimiter="\t" if suffix == ".tsv" else ",")
    return Rows(None, "line", _jsonl_rows(path))


def require_table(path: Any, key: str) -> Path:
    """The path of a file that `read_table` may read. Raises UserError for anything else, without opening it."""
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{key}={path} is no path of a file.")
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


def read_parquet(paths: Sequence[Path]) -> Table:
    """Read the shards of one split as one table; rows are counted over all of them."""
    columns: dict[str, list[object]] = {}
    num_rows = 0
    for path in paths:
        names, batches = _parquet_batches(path)
        if columns and set(columns) != set(names):
            raise UserError(f"{path} has other columns ({', '.join(names)}) than {paths[0]} ({', '.join(columns)}).")
        columns = columns or {name: [] for name in names}
        for size, batch in batches:
            num_rows += size
            for name, values in batch.items():
                columns[name].extend(values)
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Table(name, columns, "row", range(1, num_rows + 1))


def _parquet_rows(path: Path, wanted: str | None) -> Rows:
    names, batches = _parquet_batches(path, wanted)

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        number = 0
        for size, batch in batches:
            for row in range(size):
                number += 1
                yield number, {name: values[row] for name, values in batch.items()}

    return Rows(names, "row", rows())


def _parquet_batches(
    path: Path, wanted: str | None = None
) -> tuple[Sequence[str], Iterator[tuple[int, Mapping[str, list[object]]]]]:
    """The names of the columns, and the values of some rows at a time with their number."""
    import pyarrow as pa
    import pyarrow.parquet

    def whole(error: Exception) -> UserError:
        detail = " ".join(str(error).split())
        return UserError(f"{path} is not a whole Parquet file (cut off or damaged?): {detail}")

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise whole(error) from error

    def batches() -> Iterator[tuple[int, Mapping[str, list[object]]]]:
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=None if wanted is None else [wanted]):
                yield batch.num_rows, {name: values_of(batch, name) for name in batch.schema.names}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise whole(error) from error

    def values_of(batch: pa.RecordBatch, name: str) -> list[object]:
        try:
            return batch[name].to_pylist()
        except (ValueError, OverflowError, KeyError) as error:  # a date past the year 9999, two fields of one name
            raise UserError(f"{path}: column {name!r} holds what Python has no value for: {error}.") from error

    names = file.schema_arrow.names
    if len(set(names)) != len(names):
        raise UserError(f"{path}: a column name occurs twice among {listed(names)}.")
    return names, batches()


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """One JSON object a line; blank lines are skipped, a key that a line lacks is missing there."""
    # A line of the file, not of the text: str.splitlines also splits at U+2028, which JSON strings may hold.
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
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
        yield number, value


def _csv_rows(path: Path, delimiter: str) -> Rows:
    # Line ends are left to the csv module: a quoted text may span lines.
    lines = (part for line in _lines(path) for part in io.StringIO(line, newline=""))
    numbered = _csv_fields(path, csv.reader(lines, delimiter=delimiter, strict=True))
    _, header = next(numbered, (0, None))
    if header is None:
        raise UserError(f"{path} is empty; the first line must name the columns.")
    if len(set(header)) != len(header):
        raise UserError(f"{path}, line 1: a column name occurs twice among {listed(header)}.")

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        for line, fields in numbered:
            if len(fields) != len(header):
                quoted = "; a text that holds the delimiter or a quotation mark must be quoted"
                raise UserError(
                    f"{path}, line {line:,}: expected {len(header)} fields as in the header, found {len(fields)}"
                    f"{separator_hint(header) or quoted}."
                )
            yield line, dict(zip(header, fields, strict=True))

    return Rows(header, "line", rows())


def _csv_fields(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line where it begins."""
    line, header = 1, None
    try:
        for fields in reader:
            if fields:
                header = header or fields
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        unclosed = "end of data" in str(error)
        hint = (
            " (a quotation mark that is never closed?)"
            if unclosed
            else ' (a quotation mark inside a text is written "")'
        )
        hint = separator_hint(header or []) or hint
        raise UserError(f"{path}, line {line:,}: this row cannot be read as CSV: {error}{hint}.") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, their ends included; a byte order mark is left out."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield decode_utf8(raw, str(path), line=number, offset=offset)
                offset += len(raw)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def decode_utf8(raw: bytes, name: str, *, line: int = 1, offset: int = 0) -> str:
    """Decode a text file's bytes, without its byte order mark, or a part of them that begins at `line` and `offset`.

    Raises UserError with the line and the byte offset where it is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        kind = next((kind for kind, starts in LOOKS_LIKE.items() if offset == 0 and raw.startswith(starts)), "")
        hint = f" (it looks like {kind})" if kind else ""
        number = line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {number:,}: byte 0x{raw[error.start]:02x} at offset "
            f"{offset + error.start:,} is not UTF-8{hint}; "
            f"{'unpack it first' if kind == 'gzip' else 'save the file as UTF-8'}."
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text
