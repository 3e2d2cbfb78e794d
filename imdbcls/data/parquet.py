"""Read Parquet files in batches, and report damaged files and values that Python cannot represent."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imdbcls.data.columns import Request, listed, positions_of
from imdbcls.data.table import Rows, Table, finished
from imdbcls.data.text_column import TextWriter
from imdbcls.errors import UserError

PARQUET_BATCH = 1000  # rows of a Parquet file to read at a time
MAX_PAGE_BYTES = 2**29  # uncompressed size of a Parquet page; pages usually have about 1 MB


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


def parquet_rows(path: Path, request: Request) -> Rows:
    """Return the rows of a Parquet file; missing columns are absent from each row."""
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
            # One row group at a time: with all of them, pyarrow would keep the complete file in memory.
            for row_group in range(file.num_row_groups):
                for batch in file.iter_batches(PARQUET_BATCH, row_groups=[row_group], columns=list(written.values())):
                    yield batch.num_rows, {name: values_of(batch, column) for name, column in written.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(error) from error

    def values_of(batch: pa.RecordBatch, name: str) -> list[object]:
        try:
            return batch[name].to_pylist()
        except (ValueError, OverflowError, KeyError) as error:  # such as a date after 9999, or a repeated field
            raise UserError(
                f"{path}: column {name!r} has a value that Python cannot represent: {error}. Write the column again "
                "with another type, such as string."
            ) from error

    require_small_pages(path, file, list(written.values()))
    return names, batches()


def require_small_pages(path: Path, file: Any, names: Sequence[str]) -> None:
    """Raise UserError if a page of a Parquet file expands to more than `MAX_PAGE_BYTES`.

    A page is always expanded completely in memory, even to read a single row. If the page headers cannot be parsed,
    raise no error: the file may come from any writer, and pyarrow may still be able to read it.
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
