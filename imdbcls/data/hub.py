"""`data=hub`: any labelled data set of the Hugging Face hub, or one already in the local `HF_HOME`."""

from contextlib import nullcontext
from typing import Annotated, Any

from annotated_types import doc

from imdbcls.data.columns import missing_columns, request_of
from imdbcls.data.documents import Source
from imdbcls.data.local_files import local_dataset
from imdbcls.data.sources import make_source
from imdbcls.data.tables import Table
from imdbcls.errors import UserError
from imdbcls.runtime.hub import offline, reaches_hub


def read_hub(
    path: Annotated[str, doc("a folder or a hub id")],
    config: str | None,
    train_split: str,
    validation_split: str | None,
    test_split: str | None,
    text_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    labels: dict[str, str] | None = None,
    skip_empty: bool | None = None,
) -> Source:
    """Read a data set of the hub with `datasets`; from its cache if the hub cannot be reached.

    `config` is the name of the data set's own configuration, or None for its default. Class names are those that the
    data set declares. `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are respected.

    Raises UserError if the hub cannot be reached within `imdbcls.runtime.hub.HUB_TIMEOUT` seconds, and for an unknown
    data set, configuration, split or column.
    """
    # Before the import: load_dataset gets a hub id of the form owner/name or the absolute path of a folder, never a
    # single word, which it would take for one of its own builders.
    folder = local_dataset(path)
    import datasets
    from huggingface_hub import constants

    try:
        # A folder may name files elsewhere, so HF_HUB_OFFLINE holds for it too. Without a hub, the clients would retry
        # for minutes.
        is_online = not constants.HF_HUB_OFFLINE and (folder is not None or reaches_hub())
        with nullcontext() if is_online else offline():
            loaded = datasets.load_dataset(path if folder is None else str(folder.absolute()), config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(_explain(path, error)) from error
    request = request_of(text_column, label_column, id_column, group_column)
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
        chosen = loaded[name].select_columns(request.names)
        columns: dict[str, Any] = chosen.with_format("arrow")[:].to_pydict()
        tables[split] = Table(f"{path}, split {name}", columns, "row", range(1, len(loaded[name]) + 1))

    declared = getattr(loaded[train_split].features.get(label_column), "names", None)
    if labels is None and declared is not None:
        labels = {str(index): name for index, name in enumerate(declared)}
    return make_source(tables, text_column, label_column, id_column, group_column, labels=labels, skip_empty=skip_empty)


def _explain(path: str, error: Exception) -> str:
    import datasets

    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return (
            f"data.path={path}: the hub has no such data set that you may read; a gated or private one needs "
            "`hf auth login`. It is not a folder on this machine either."
        )
    if isinstance(error, ConnectionError):
        return (
            f"data.path={path}: the hub cannot be reached, its cache lacks the data set, no folder here has that name; "
            "give data.path a local copy, point HF_HOME at a filled cache, or try data=sample (no network)."
        )
    return f"data.path={path}: the hub's data set could not be loaded: {' '.join(str(error).split())[:300]}"
