"""`data=files`: the user's own CSV, TSV, JSON Lines or Parquet files, with any number of classes."""

from imdbcls.data.documents import Source
from imdbcls.data.sources import make_source
from imdbcls.data.tables import read_table


def read_files(
    train: str,
    validation: str | None,
    test: str | None,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
) -> Source:
    """Read one file a split; what is None is carved out of train later.

    The classes are the distinct labels of `train`: whole numbers in their order, anything else by name.
    Raises UserError for everything `read_table` and `make_source` refuse.
    """
    tables = {"train": read_table(train, "data.train")}
    if validation is not None:
        tables["validation"] = read_table(validation, "data.validation")
    if test is not None:
        tables["test"] = read_table(test, "data.test")
    return make_source(tables, text_column, label_column, id_column, group_column)
