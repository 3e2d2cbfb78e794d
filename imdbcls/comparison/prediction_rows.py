"""Read the rows of a file of predictions: CSV, TSV or Parquet.

The file may be untrusted. Before rows are read, its size, its lines (CSV, TSV) and its pages (Parquet) are checked
against limits. `predictions_file` checks the cells.
"""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imdbcls.data.answers import PROBABILITY
from imdbcls.data.columns import Request, listed, positions_of
from imdbcls.data.documents import label_name
from imdbcls.data.table import Rows
from imdbcls.data.tables import rows_of
from imdbcls.errors import UserError
from imdbcls.runs.parquet_pages import columns_of, require_small_footer
from imdbcls.runs.read_predictions import (
    MAX_COLUMN_BYTES,
    MAX_PAGE_BYTES,
    MAX_PREDICTIONS_BYTES,
    batch_size,
    texts_of,
)
from imdbcls.runs.untrusted import require_regular_file

logger = logging.getLogger(__name__)

FORMATS = (".csv", ".tsv", ".parquet")
REQUIRED = ("system", "id", "label", "prediction")
SEED, CLUSTER = "seed", "cluster"
MAX_ROWS = 2_000_000
MAX_LINE_BYTES = 2**22  # limit for a line, and for a cell, of a CSV or TSV file
MAX_PAGES_BYTES = 2**29  # limit for the sum of the largest page of each column of a Parquet file


@contextmanager
def opened(given: Path) -> Iterator[Rows]:
    """Open the file, and provide its columns and its rows. Rows must be read inside the `with` block.

    Raise UserError if the file is not a regular file in a known format, is too large, or has missing or repeated
    columns.
    """
    path = require_file(given)
    with limited_fields():
        found = parquet_rows(path) if path.suffix.lower() == ".parquet" else delimited_rows(path)
        yield Rows(found.columns, found.unit, limited(found.rows, given))


def limited(rows: Iterator[tuple[int, Mapping[str, object]]], path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the rows. Raise UserError if there are more than `MAX_ROWS`."""
    for count, row in enumerate(rows):
        if count == MAX_ROWS:
            raise too_many_rows(path)
        yield row


def require_file(path: Path) -> Path:
    """Return the path. Raise UserError if it is not a regular file in a known format, or is too large."""
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise UserError(f"{path} does not exist. Pass a file of predictions ({', '.join(FORMATS)}).") from None
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path} is not a file of predictions. Allowed formats are {', '.join(FORMATS)}.")
    require_regular_file(resolved, MAX_PREDICTIONS_BYTES)
    return path


@contextmanager
def limited_fields() -> Iterator[None]:
    """Limit CSV fields to `MAX_LINE_BYTES` inside the `with` block. Elsewhere, imdbcls allows up to 2 GB."""
    previous = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


def request_for(columns: Sequence[str], path: Path) -> Request:
    """Return the `Request` for the known columns of a file. Warn once about unknown columns that have a name.

    Raise UserError if a required column is missing, or if a known column occurs twice.
    """
    names = [name.strip() for name in columns]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        has = f"it has {listed([name for name in names if name])}" if any(names) else "it has no named columns"
        raise UserError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; {has}. It needs the columns "
            f"{', '.join(REQUIRED)}, and may have {SEED}, {CLUSTER} and {PROBABILITY}<class> for each class."
        )
    known = [name for name in dict.fromkeys(names) if name in (*REQUIRED, SEED, CLUSTER) or is_probability(name)]
    # A column without a name is usually the index of a data frame. In Parquet, pandas calls it __index_level_0__.
    named = [name for name in dict.fromkeys(names) if name and not name.startswith("__index_level_")]
    if unknown := [name for name in named if name not in known]:
        logger.warning(
            f"{path}: {'column' if len(unknown) == 1 else 'columns'} {listed(unknown)} will be ignored. The columns "
            f"that are read are {', '.join([*REQUIRED, SEED, CLUSTER])} and {PROBABILITY}<class>."
        )
    request = Request(tuple(("", name) for name in known), quoting="standard", encoding="utf-8", has_settings=False)
    positions_of(request, names, str(path))
    return request


def is_probability(column: str) -> bool:
    return column.startswith(PROBABILITY) and label_name(column.removeprefix(PROBABILITY)) != ""


def delimited_rows(path: Path) -> Rows:
    """Return the rows of a CSV or TSV file. The delimiter is detected."""
    require_short_lines(path)
    required = Request(tuple(("", name) for name in REQUIRED), quoting="standard", encoding="utf-8", has_settings=False)
    header = rows_of(path, required, only_header=True)
    request = request_for(header.columns or [], path)
    found = rows_of(path, request)
    return Rows(request.names, found.unit, found.rows)


def require_short_lines(path: Path) -> None:
    """Raise UserError for a line that is too long, because each line is later read into memory as a whole."""
    number = 1
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"{path}, line {number:,}: the line has more than {MAX_LINE_BYTES:,} bytes. Shorten the line."
                    )
                number += 1
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def parquet_rows(path: Path) -> Rows:
    """Return the rows of a Parquet file. Its pages are checked before anything is decompressed.

    A small file can repeat one long string in every row. Strings are therefore read in Arrow's dictionary encoding,
    which keeps each distinct string once.
    """
    import pyarrow.parquet as pq

    with complete(path):
        require_small_footer(path)
        schema = pq.read_schema(path)
        request = request_for(schema.names, path)
        written = {name.strip(): name for name in schema.names}
        columns = {name: written[name] for name in request.names}
        kinds = {name: require_type(path, name, schema.field(column).type) for name, column in columns.items()}
        texts = [column for name, column in columns.items() if kinds[name] == "text"]
        file = pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False)
        require_bounded(path, file, list(columns.values()))

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        number = 0
        with complete(path):
            size = batch_size(max(2, len(columns)))
            for batch in file.iter_batches(size, columns=list(columns.values()), use_threads=False):
                cells = [cells_of(batch[column], is_probability(name)) for name, column in columns.items()]
                for row in zip(*cells, strict=True):
                    number += 1
                    yield number, dict(zip(columns, row, strict=True))

    return Rows(request.names, "row", rows())


@contextmanager
def complete(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow, such as the error for a damaged file, into a UserError."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException, MemoryError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read as a Parquet file ({detail}). If the file is damaged, create it again."
        ) from error


def require_type(path: Path, name: str, kind: Any) -> str:
    """Return "text" or "number" (also for booleans) for a Parquet column with the Arrow type `kind`.

    Raise UserError if this type is not allowed for the column `name`.
    """
    import pyarrow as pa

    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(values) or pa.types.is_floating(values):
        return "number"
    if not is_probability(name) and (pa.types.is_string(values) or pa.types.is_large_string(values)):
        return "text"
    if not is_probability(name) and pa.types.is_boolean(values):
        return "number"
    allowed = "numbers" if is_probability(name) else "strings, numbers or booleans"
    raise UserError(f"{path}: column {name!r} has the type {str(kind)[:60]}; it must contain {allowed}.")


def require_bounded(path: Path, file: Any, names: Sequence[str]) -> None:
    """Raise UserError if the file has too many rows, or if its pages can expand to too many bytes."""
    num_rows = file.metadata.num_rows
    if num_rows > MAX_ROWS:
        raise too_many_rows(path)
    pages = columns_of(path, file.metadata, names)
    for column in pages.values():
        if column.largest_page > MAX_PAGE_BYTES or column.num_bytes > MAX_COLUMN_BYTES or not column.is_bounded:
            raise UserError(
                f"{path}: column {column.path[:80]!r} is too large, or its encoding can expand to any size. The column "
                f"expands to {column.num_bytes:,} bytes. The limits are {MAX_COLUMN_BYTES:,} bytes per column and "
                f"{MAX_PAGE_BYTES:,} bytes per page. Write the file again with smaller pages, fewer rows, or another "
                "encoding (plain or dictionary)."
            )
    if sum(column.largest_page for column in pages.values()) > MAX_PAGES_BYTES:
        raise UserError(
            f"{path}: the largest pages of its columns expand to more than {MAX_PAGES_BYTES:,} bytes in total. Write "
            "the file again with smaller pages."
        )


def too_many_rows(path: Path | str) -> UserError:
    return UserError(f"{path} has more than {MAX_ROWS:,} rows. Pass a file with fewer rows.")


def cells_of(column: Any, is_number: bool) -> list[Any]:
    """Return the cells of a column: numbers if `is_number`, else strings, where equal cells share one object.

    Missing values become None.
    """
    if is_number:
        return column.to_pylist()
    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
    if len(missing) == len(column):
        return [None] * len(column)
    texts, indices = texts_of(column.drop_null())
    cells = np.full(len(column), None, dtype=object)
    cells[np.setdiff1d(np.arange(len(column)), missing)] = texts[indices]
    return cells.tolist()
