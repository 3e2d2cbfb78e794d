"""`data=hub`: any labelled data set of the Hugging Face hub, or one already in the local `HF_HOME`."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

from annotated_types import doc

from imdbcls.data.columns import missing_columns, request_of
from imdbcls.data.documents import Source
from imdbcls.data.local_files import local_dataset
from imdbcls.data.sources import make_source
from imdbcls.data.tables import Table
from imdbcls.errors import UserError
from imdbcls.runtime.hub import reaches_hub


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
    """Read a hub data set through `datasets`, from the cache where it is there and the hub is not.

    `config` is the data set's own configuration name, or None for its default. Class names are the data
    set's where it declares them. `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are respected.

    Raises UserError for a hub that cannot be reached within `imdbcls.runtime.hub.HUB_TIMEOUT` seconds, an unknown
    data set, configuration, split or column.
    """
    # Before the import: what load_dataset is given is a hub id of the form owner/name or the absolute path of a folder,
    # never a word that it would take for one of its own builders.
    folder = local_dataset(path)
    import datasets
    from huggingface_hub import constants

    try:
        # A folder may name files elsewhere, so it is not an exception where the network is forbidden.
        with _offline_unless(not constants.HF_HUB_OFFLINE and (folder is not None or reaches_hub())):
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


@contextlib.contextmanager
def _offline_unless(reachable: bool) -> Iterator[None]:
    """Keep the hub's clients from retrying for minutes where the hub is away: offline they look into their caches."""
    import datasets.config
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if not reachable:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def _explain(path: str, error: Exception) -> str:
    import datasets

    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return (
            f"data.path={path}: the hub has no such data set that you may read; a gated or private one needs "
            "`hf auth login`. It is no folder on this machine either."
        )
    if isinstance(error, ConnectionError):
        return (
            f"data.path={path}: the hub cannot be reached, its cache does not hold the data set and no folder here has "
            "that name; give data.path a local copy, point HF_HOME at a filled cache, or try data=sample (no network)."
        )
    return f"data.path={path}: the hub's data set could not be loaded: {' '.join(str(error).split())[:300]}"
