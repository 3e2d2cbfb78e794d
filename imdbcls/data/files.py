"""Read `data=files`: the user's own CSV, TSV, JSON Lines or Parquet files, with any number of classes."""

from dataclasses import replace
from typing import Annotated

from annotated_types import doc

from imdbcls.data.columns import Delimiter, Quoting, request_of
from imdbcls.data.documents import Source
from imdbcls.data.sources import make_source
from imdbcls.data.tables import read_table

FilePath = Annotated[str, doc("the path of a file")]


def read_files(
    train: FilePath,
    validation: FilePath | None,
    test: FilePath | None,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    delimiter: Delimiter = "auto",
    quoting: Quoting = "auto",
    skip_empty: bool = False,
    part_column: str | None = None,
) -> Source:
    """Read one file per split; a split without a file is carved out of train later.

    The classes are the distinct labels in `train`, in numeric order if all are whole numbers, otherwise in the order of
    their names. `delimiter` and `quoting` describe CSV and TSV files; "auto" detects them. `skip_empty` skips rows
    without a text or label. `part_column` names the parts whose accuracy is reported. Raise the UserErrors of
    `read_table` and `make_source`.
    """
    request = request_of(text_column, label_column, id_column, group_column, part_column, delimiter, quoting)
    paths = {"train": train, "validation": validation, "test": test}
    tables = {split: read_table(path, f"data.{split}", request) for split, path in paths.items() if path is not None}
    source = make_source(tables, text_column, label_column, id_column, group_column, part_column, skip_empty=skip_empty)
    rows = ", ".join(f"{len(table.numbers):,} rows from {table.name}" for table in tables.values())
    return replace(source, notes=(f"Read {rows}.", *source.notes))
