"""Reads CSV, JSON Lines and Parquet files into columns, and checks columns into documents."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imdbcls.data.documents import Documents
from imdbcls.errors import UserError

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

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
            raise UserError(f"{self.name} has no column {name!r} ({key}); it has {found}.")
        return self.columns[name]


def read_table(path: str | Path, key: str) -> Table:
    """Read one file, its format told by its ending (see `FORMATS`).

    `key` is the config key that gave the path, for messages. Raises UserError for a missing, empty,
    unreadable, truncated or wrongly encoded file and for a broken row, which it names.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{key}={path} is not a file this reads: the name must end in {', '.join(FORMATS)}.")
    if not path.is_file():
        raise UserError(f"{key}={path}: there is no such file.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = read_parquet([path])
    elif suffix in (".csv", ".tsv"):
        table = _read_csv(path, delimiter="\t" if suffix == ".tsv" else ",")
    else:
        table = read_jsonl(path)
    if not table.numbers:
        raise UserError(f"{key}={path} holds no documents.")
    return table


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


def read_jsonl(path: Path) -> Table:
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
                f"{path}, line {number:,}: not a JSON value ({error.msg}, column {error.colno})."
            ) from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number:,}: expected a JSON object, found {type(value).__name__}.")
        objects.append(value)
        numbers.append(number)
    names = dict.fromkeys(name for value in objects for name in value)
    return Table(str(path), {name: [value.get(name) for value in objects] for name in names}, "line", numbers)


def to_documents(
    table: Table,
    split: str,
    *,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    label_keys: Sequence[str],
    label_names: Sequence[str],
) -> Documents:
    """Check one split's columns and return them as documents.

    A label whose `label_key` is `label_keys[i]` becomes class i. Without an id column, ids are the split's
    name and the row counted from 0 (`train/000017`).

    Raises UserError, naming file and row, for a missing column, an empty or missing text, a missing label or
    group, a label that is not among `label_keys`, and an id that occurs twice.
    """
    raw_texts = table.column(text_column, "data.text_column")
    _refuse(table, [not isinstance(text, str) or not text.strip() for text in raw_texts], f"no text in {text_column!r}")
    texts = [str(text) for text in raw_texts]

    class_of = {key: index for index, key in enumerate(label_keys)}
    keys = find_label_keys(table, label_column)
    unseen = [row for row, key in enumerate(keys) if key not in class_of]
    if unseen:
        names = [key if key == name else f"{key} ({name})" for key, name in zip(label_keys, label_names, strict=True)]
        raise UserError(
            f"{table.name}, {table.where(unseen[0])}: label {keys[unseen[0]]!r} is not one of the labels in training: "
            f"{_shorten(names)}{_more(unseen)}."
        )
    labels = np.array([class_of[key] for key in keys], dtype=np.int64)

    if id_column is None:
        ids = [f"{split}/{row:06d}" for row in range(len(texts))]
    else:
        ids = _as_strings(table, id_column, "data.id_column")
        first_row: dict[str, int] = {}
        for row, name in enumerate(ids):
            if first_row.setdefault(name, row) != row:
                raise UserError(
                    f"{table.name}, {table.where(row)}: id {name!r} occurs before, in {table.where(first_row[name])}; "
                    "ids must be unique."
                )
    groups = None if group_column is None else _as_strings(table, group_column, "data.group_column")
    return Documents(ids, texts, labels, groups)


def find_label_keys(table: Table, label_column: str) -> list[str]:
    """Return every row's label as text (`1`, `true`, `sports`). Raises UserError for a missing label, with its row."""
    values = table.column(label_column, "data.label_column")
    keys = [_label_key(value) for value in values]
    _refuse(table, [key is None for key in keys], f"no label in {label_column!r}")
    for row, value in enumerate(values):
        if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not value.is_integer()):
            raise UserError(f"{table.name}, {table.where(row)}: label {value!r} is neither text nor a whole number.")
    return [str(key) for key in keys]


def sort_labels(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels in class order: by value if all are whole numbers, else by name."""
    distinct = set(keys)
    try:
        return tuple(sorted(distinct, key=int))
    except ValueError:
        return tuple(sorted(distinct))


def _label_key(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # A column of whole numbers with gaps is written as floats by pandas.
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, str):
        value = value.strip()
        return None if value == "" or value.lower() == "nan" else value
    return None if value is None else str(value)


def _as_strings(table: Table, name: str, key: str) -> list[str]:
    values = [_label_key(value) for value in table.column(name, key)]
    _refuse(table, [value is None for value in values], f"no value in {name!r} ({key})")
    return [str(value) for value in values]


def _refuse(table: Table, bad: Sequence[bool], problem: str) -> None:
    rows = [row for row, is_bad in enumerate(bad) if is_bad]
    if rows:
        raise UserError(f"{table.name}, {table.where(rows[0])}: {problem}{_more(rows)}.")


def _more(rows: Sequence[int]) -> str:
    return "" if len(rows) == 1 else f" (and {len(rows) - 1:,} more such rows)"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "")


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
        raise UserError(f"{path}, line {line:,}: this row cannot be read as CSV: {error}.") from error
    if header is None:
        raise UserError(f"{path} is empty; the first line must name the columns.")
    if len(set(header)) != len(header):
        raise UserError(f"{path}, line 1: a column name occurs twice among {', '.join(header)}.")
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    return Table(str(path), columns, "line", numbers)


def _read_text(path: Path) -> str:
    raw = path.read_bytes()
    return decode_utf8(raw, str(path))


def decode_utf8(raw: bytes, name: str) -> str:
    """Decode a text file's bytes. Raises UserError with the line and the byte offset where it is not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With utf-8-sig the offset may count from behind the mark; a second decoding counts from the file's start.
        offset = error.start
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as plain:
            offset = plain.start
        line = raw.count(b"\n", 0, offset) + 1
        hint = " (it looks like UTF-16)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(
            f"{name}, line {line:,}: byte 0x{raw[offset]:02x} at offset {offset:,} is not UTF-8{hint}; "
            "save the file as UTF-8."
        ) from error
