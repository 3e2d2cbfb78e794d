"""Read `data=hub`: any labelled dataset on the Hugging Face hub or in the local cache (`HF_HOME`)."""

import itertools
from contextlib import nullcontext
from typing import Annotated, Any

from annotated_types import doc

from imdbcls.data.columns import ColumnNames, Request, listed, missing_columns, request_of
from imdbcls.data.documents import Source
from imdbcls.data.local_files import local_dataset
from imdbcls.data.sources import make_source
from imdbcls.data.table import Table
from imdbcls.data.tables import Collector
from imdbcls.errors import UserError
from imdbcls.runtime.hub import offline, reaches_hub

ROWS = 1000  # rows to read at a time


def read_hub(
    path: Annotated[str, doc("a folder or a hub id")],
    config: str | None,
    train_split: str,
    validation_split: str | None,
    test_split: str | None,
    text_column: ColumnNames,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    labels: dict[str, str] | None = None,
    skip_empty: bool | None = None,
    part_column: str | None = None,
    text_separator: str = " ",
    pair_column: ColumnNames | None = None,
) -> Source:
    """Read a dataset from a folder or the hub, or from the local cache if the hub cannot be reached.

    `config` is the name of a configuration of the dataset; None is its default. `labels` maps the labels in the data
    to class names. If it is None, the classes have the names that the dataset declares; if it declares none, the
    labels are the class names. If `text_column` names several columns, their cells are joined with `text_separator`. If
    `pair_column` is given, a document is a pair of texts. `skip_empty` has the same meaning as in `make_source`.
    `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are respected.

    Raise UserError for an unknown dataset, configuration, split or column. Also raise UserError if the cache lacks the
    dataset and the hub cannot be reached within `imdbcls.runtime.hub.HUB_TIMEOUT` seconds.
    """
    loaded = _load(path, config)
    request = request_of(
        text_column,
        label_column,
        id_column,
        group_column,
        part_column,
        pair_column=pair_column,
        text_separator=text_separator,
    )
    wanted = {"train": train_split, "validation": validation_split, "test": test_split}
    tables: dict[str, Table] = {}
    for split, name in wanted.items():
        if name is None:
            continue
        if name not in loaded:
            raise UserError(f"{path} has no split {name!r} (data.{split}_split); it has {', '.join(loaded)}.")
        missing = missing_columns(request, loaded[name].column_names, f"{path}, split {name}")
        if missing is not None:
            raise missing
        tables[split] = _table(loaded[name], f"{path}, split {name}", request)

    declared = getattr(loaded[train_split].features.get(label_column), "names", None)
    if labels is None and declared is not None:
        labels = {str(index): name for index, name in enumerate(declared)}
    return make_source(
        tables,
        text_column,
        label_column,
        id_column,
        group_column,
        part_column,
        labels=labels,
        skip_empty=skip_empty,
        pair_column=pair_column,
    )


def read_hub_texts(path: str, split: str) -> Table | None:
    """Read the column `text` of one split; return None if the dataset has no such split. Raise as `read_hub` does."""
    loaded = _load(path, None)
    if split not in loaded:
        return None
    if "text" not in loaded[split].column_names:
        raise UserError(
            f"{path}, split {split} has no column 'text'; it has {listed(loaded[split].column_names)}. Set "
            "data.unlabelled to other files, or to null."
        )
    request = Request((("text_column", "text"),), has_settings=False)
    return _table(loaded[split], f"{path}, split {split}", request)


def _load(path: str, config: str | None) -> Any:
    """Load a dataset; return a mapping from the names of its splits to the splits."""
    # Check the path before the slow import. Pass load_dataset only a hub id of the form owner/name or the absolute path
    # of a folder, because it interprets a single word as the name of one of its own builders.
    folder = local_dataset(path)
    import datasets
    from huggingface_hub import constants

    try:
        # HF_HUB_OFFLINE also applies to a folder, which may refer to remote files. If the hub cannot be reached,
        # offline mode keeps the clients from retrying for minutes.
        is_online = not constants.HF_HUB_OFFLINE and (folder is not None or reaches_hub())
        with nullcontext() if is_online else offline():
            return datasets.load_dataset(path if folder is None else str(folder.absolute()), config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_explain(path, error)) from error


def _table(split: Any, name: str, request: Request) -> Table:
    """Read the requested columns of one loaded split; `name` is its name in messages."""
    columns, numbers = Collector(request), itertools.count(1)
    for batch in split.select_columns(request.names).with_format("arrow").iter(ROWS):
        for row in batch.to_pylist():
            columns.add(row, f"{name}, row", next(numbers))
    return Table(name, columns.finish(), "row", range(1, len(split) + 1))


def _explain(path: str, error: Exception) -> str:
    import datasets

    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return (
            f"data.path={path} is neither a folder nor a dataset that you can read on the hub. For a gated or "
            "private dataset, run `hf auth login` first."
        )
    if isinstance(error, ConnectionError):
        return (
            f"data.path={path} is not a folder, the cache does not contain it, and the hub cannot be reached (or "
            "HF_HUB_OFFLINE is set). Set data.path to a local copy, set HF_HOME to a cache that contains the dataset, "
            "or use data=sample, which needs no network."
        )
    return f"data.path={path}: the dataset could not be loaded: {' '.join(str(error).split())[:300]}"
