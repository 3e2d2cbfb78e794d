"""Reads CSV, TSV, JSON Lines and Parquet files into columns, and names file and line of what cannot be read."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
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
        if name not in self.columns:
            found = ", ".join(repr(column) for column in self.columns)
            raise UserError(f"{self.name} has no column {name!r} ({key}); it has {found}{self._hint()}.")
        return self.columns[name]

    def _hint(self) -> str:
        """What may be wrong with the columns of a text file, in words."""
        only = next(iter(self.columns)) if len(self.columns) == 1 else ""
        if "\t" in only:
            return " (separated by tabs? then name it .tsv)"
        if ";" in only:
            return " (separated by semicolons? save it with commas)"
        return " (the first line names the columns)" if self.unit == "line" else ""


def read_table(path: str | Path, key: str) -> Table:
    """Read one file, its format told by its ending (see `FORMATS`).

    `key` is the config key that gave the path, for messages. Raises UserError for a missing, empty,
    unreadable, truncated or wrongly encoded file and for a broken row, which it names.
    """
    path = require_table(path, key)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet([path])
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, delimiter="\t" if suffix == ".tsv" else ",")
    return _read_jsonl(path)


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
    import pyarrow as pa
    import pyarrow.parquet

    columns: dict[str, list[object]] = {}
    num_rows = 0
    for path in paths:
        try:
            table = pyarrow.parquet.read_table(path, partitioning=None)
            shard = {name: table[name].to_pylist() for name in table.column_names}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            detail = " ".join(str(error).split())
            raise UserError(f"{path} is not a whole Parquet file (cut off or damaged?): {detail}") from error
        if columns and set(columns) != set(shard):
            raise UserError(f"{path} has other columns ({', '.join(shard)}) than {paths[0]} ({', '.join(columns)}).")
        for name, values in shard.items():
            columns.setdefault(name, []).extend(values)
        num_rows += table.num_rows
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Table(name, dict(columns), "row", range(1, num_rows + 1))


def _read_jsonl(path: Path) -> Table:
    """Read one JSON object a line; blank lines are skipped, a key that a line lacks is missing there."""
    objects: list[dict[str, object]] = []
    numbers: list[int] = []
    # Not splitlines(): it also splits at U+2028 and others, which JSON strings may hold.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number:,}: not a JSON value ({error.msg}, column {error.colno}); {ONE_A_LINE}."
            ) from error
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number:,}: expected a JSON object, found {type(value).__name__}; {ONE_A_LINE}."
            )
        objects.append(value)
        numbers.append(number)
    names = dict.fromkeys(name for value in objects for name in value)
    return Table(str(path), {name: [value.get(name) for value in objects] for name in names}, "line", numbers)


def _read_csv(path: Path, delimiter: str) -> Table:
    # Line ends are left to the csv module: a quoted text may span lines.
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    line = 1
    header: list[str] | None = None
    try:
        for row in reader:
            if row and header is None:
                header = row
            elif row and header is not None:
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {line:,}: expected {len(header)} fields as in the header, found {len(row)}; "
                        "a text that holds the delimiter or a quotation mark must be quoted."
                    )
                rows.append(row)
                numbers.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        unclosed = "end of data" in str(error)
        hint = "a quotation mark that is never closed?" if unclosed else 'a quotation mark inside a text is written ""'
        raise UserError(f"{path}, line {line:,}: this row cannot be read as CSV: {error} ({hint}).") from error
    if header is None:
        raise UserError(f"{path} is empty; the first line must name the columns.")
    if len(set(header)) != len(header):
        raise UserError(f"{path}, line 1: a column name occurs twice among {', '.join(header)}.")
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    return Table(str(path), columns, "line", numbers)


def _read_text(path: Path) -> str:
    return decode_utf8(path.read_bytes(), str(path))


def decode_utf8(raw: bytes, name: str) -> str:
    """Decode a text file's bytes. Raises UserError with the line and the byte offset where it is not UTF-8."""
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        kind = next((kind for kind, starts in LOOKS_LIKE.items() if raw.startswith(starts)), "")
        hint = f" (it looks like {kind})" if kind else ""
        raise UserError(
            f"{name}, line {line:,}: byte 0x{raw[error.start]:02x} at offset {error.start:,} is not UTF-8{hint}; "
            f"{'unpack it first' if kind == 'gzip' else 'save the file as UTF-8'}."
        ) from error
