"""`data=files`: the user's own CSV, TSV, JSON Lines or Parquet files, with any number of classes."""

from imdbcls.data.documents import Documents, Source
from imdbcls.data.tables import Table, find_label_keys, read_table, sort_labels, to_documents
from imdbcls.errors import UserError


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
    Raises UserError for everything `read_table` and `to_documents` refuse, and for a single class.
    """
    tables = {"train": read_table(train, "data.train")}
    if validation is not None:
        tables["validation"] = read_table(validation, "data.validation")
    if test is not None:
        tables["test"] = read_table(test, "data.test")
    return make_source(tables, text_column, label_column, id_column, group_column, origin=f"files ({train})")


def make_source(
    tables: dict[str, Table],
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    *,
    origin: str,
    labels: dict[str, str] | None = None,
) -> Source:
    """Turn the tables of `train` and, where there are any, `validation` and `test` into a source.

    `labels` maps a label as written in the data to the name of its class, in class order; None takes the
    labels that occur in train. Raises UserError as `read_files`.
    """
    found = sort_labels(find_label_keys(tables["train"], label_column))
    if len(found) < 2:
        raise UserError(
            f"{tables['train'].name}: every document has the label {found[0]!r}; "
            "a classifier needs at least two classes in training."
        )
    if labels is None:
        labels = {key: key for key in found}
    splits: dict[str, Documents] = {
        split: to_documents(
            table,
            split,
            text_column=text_column,
            label_column=label_column,
            id_column=id_column,
            group_column=group_column,
            label_keys=tuple(labels),
            label_names=tuple(labels.values()),
        )
        for split, table in tables.items()
    }
    return Source(
        train=splits["train"],
        test=splits.get("test"),
        validation=splits.get("validation"),
        label_names=tuple(labels.values()),
        origin=origin,
    )
