"""Read the test documents of a finished run again, for the pages that show them."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imdbcls.data.documents import Source
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runs.data_origin import READER_TARGET
from imdbcls.runtime.hub import offline


def read_texts(config: Mapping[str, Any], split_hash: str) -> dict[str, str]:
    """Return id → text of the test split of the run with this resolved config (its `config.yaml`).

    A run folder may come from elsewhere, so only the project's own readers are called: `_target_` cannot name other
    code. Texts are returned only if all documents found here hash to the run's `split_hash`: the run cannot have other
    files of this machine shown as its documents. The network is not used: a hub's data set comes from the cache.

    Raises UserError for a source that is not the project's, for keys that do not fit it, for data that cannot be read
    any more, and for documents that are not the run's.
    """
    try:
        data: Any = config["data"]
        source = dict(data["source"])
        target = source.get("_target_")
        arguments = {key: value for key, value in source.items() if not key.startswith("_")}
        settings = {key: data[key] for key in SPLIT_SETTINGS}
        reader = reader_of(target)
        inspect.signature(reader).bind(**arguments)
        if target == "imdbcls.data.hub.read_hub" and Path(arguments["path"]).exists():
            raise UserError(f"data.path={arguments['path']} is a folder here, which may name files on the network.")
        with offline():
            corpus = make_corpus(reader(**arguments), **settings)
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(f"The run's data section does not fit its source: {error}.") from error
    if corpus.split_hash != split_hash:
        raise UserError("The documents found here are not those of the run: their split_hash differs.")
    return dict(zip(corpus.test.ids, corpus.test.texts, strict=True))


def reader_of(target: Any) -> Callable[..., Source]:
    """Return the project's reader that a `_target_` names; raise UserError for anything else."""
    match = READER_TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is not None:
        try:
            return getattr(importlib.import_module(f"imdbcls.data.{match[1]}"), f"read_{match[1]}")
        except (ImportError, AttributeError):
            pass
    raise UserError(f"data.source._target_={shown(target)} is not a reader of imdbcls; its texts cannot be read here.")
