"""Read `data=files`: the user's own CSV, TSV, JSON Lines or Parquet files, with any number of classes."""

from dataclasses import replace
from typing import Annotated

from annotated_types import doc

from imdbcls.data.columns import ColumnNames, Delimiter, Encoding, Quoting, request_of
from imdbcls.data.documents import Source
from imdbcls.data.sources import make_source
from imdbcls.data.tables import read_table

FilePath = Annotated[
    str | list[str], doc("the path of a file, a pattern such as part-*.csv, or a list of these such as [a.csv,b.csv]")
]


def read_files(
    train: FilePath,
    validation: FilePath | None,
    test: FilePath | None,
    text_column: ColumnNames,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    delimiter: Delimiter = "auto",
    quoting: Quoting = "auto",
    skip_empty: bool = False,
    part_column: str | None = None,
    encoding: Encoding = "auto",
    text_separator: str = " ",
    pair_column: ColumnNames | None = None,
) -> Source:
    """Read one or several files per split; a split without a file is carved out of train later.

    The classes are the distinct labels in `train`, in numeric order if all are whole numbers, otherwise in the order of
    their names. `delimiter`, `quoting` and `encoding` describe text files; "auto" detects them. `skip_empty` skips rows
    without a text or label. `part_column` names the parts whose accuracy is reported. If `text_column` names several
    columns, their cells are joined with `text_separator`. If `pair_column` is given, a document is a pair of texts,
    which the tokenizer encodes together. Raise UserError as `read_table` and `make_source` do.
    """
    request = request_of(
        text_column,
        label_column,
        id_column,
        group_column,
        part_column,
        delimiter,
        quoting,
        encoding,
        pair_column,
        text_separator,
    )
    paths = {"train": train, "validation": validation, "test": test}
    tables = {split: read_table(path, f"data.{split}", request) for split, path in paths.items() if path is not None}
    source = make_source(
        tables,
        text_column,
        label_column,
        id_column,
        group_column,
        part_column,
        skip_empty=skip_empty,
        pair_column=pair_column,
    )
    rows = ", ".join(f"{len(table.numbers):,} rows from {table.name}" for table in tables.values())
    return replace(source, notes=(f"Read {rows}.", *source.notes))
