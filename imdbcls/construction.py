"""Build the object that a config section describes, and read the documents.

No other module calls Hydra's `instantiate`. This module does not import torch, because `compare` uses `read_texts`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from imdbcls.config.allowed_targets import borrowed_targets, is_allowed
from imdbcls.config.checking import check
from imdbcls.config.schema import DataConfig
from imdbcls.config.section import Built
from imdbcls.config.signatures import ALL_LAYERS
from imdbcls.data.documents import Corpus
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub import offline


def construct(section: Built, **given: Any) -> Any:
    """Call Hydra's `instantiate` with the section and the arguments in `given`.

    Convert Hydra's InstantiationException to UserError if it is caused by a mistake of the user.
    """
    allowed = section.given | section.offered | {ALL_LAYERS}
    assert given.keys() <= allowed, f"{type(section).__name__} does not declare {given.keys()}"
    for mistake in borrowed_targets(section.node):
        raise UserError(mistake)
    try:
        return instantiate(section.node, **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if error.__cause__ is None or isinstance(error.__cause__, TypeError | ValueError):
            # An unknown option, a value of the wrong type, or an invalid Hydra option (_args_, _convert_).
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{section.target} rejects its settings: {reason}") from error
        raise


def build_corpus(data: DataConfig) -> Corpus:
    """Return the documents. Read them only if `keep_corpus` has not read them in this process or its parent."""
    kept = _kept_corpus.get(corpus_key(data))
    if kept is not None:
        return kept
    settings = {key: getattr(data, key) for key in SPLIT_SETTINGS}
    return make_corpus(construct(data.source), **settings)


def keep_corpus(data: DataConfig) -> None:
    """Read the documents and keep them in memory. The jobs of a sweep are forked from this process and share them."""
    if corpus_key(data) not in _kept_corpus:
        keep_as(data, build_corpus(data))


def keep_as(data: DataConfig, corpus: Corpus) -> None:
    """Make `build_corpus` return `corpus` for this data section. A dry run passes a sample of the documents."""
    _kept_corpus.clear()
    _kept_corpus[corpus_key(data)] = corpus


def corpus_key(data: DataConfig) -> str:
    return json.dumps(data.model_dump(include={"source", *SPLIT_SETTINGS}), sort_keys=True)


_kept_corpus: dict[str, Corpus] = {}  # `corpus_key` → corpus; at most one entry


def read_texts(config: Mapping[str, Any], split_hash: str, *, is_own_data: bool = False) -> dict[str, str]:
    """Return a mapping from id to text for the test split of a finished run; `config` is its `config.yaml`.

    A run folder may come from someone else. So only this project's own readers are called; `_target_` cannot name
    other code. Texts are returned only if the documents hash to the run's `split_hash`, so that a run folder cannot
    expose other files of this machine. The network is not used: a hub dataset is read from the cache.

    Raise UserError if the data source is not one of this project's readers, or if its keys are invalid. Also raise
    UserError if the data can no longer be read, or if the documents differ from the run's documents.
    """
    data = recorded_data(config)
    path = data.source.arguments.get("path")
    if not is_own_data and data.source.target == "imdbcls.data.hub.read_hub" and Path(str(path)).exists():
        raise UserError(
            f"data.path={path} is a local path, not a hub id. It is not read here, because a local dataset can load "
            "files from the network."
        )
    with offline():
        corpus = build_corpus(data)
    if corpus.split_hash != split_hash:
        raise UserError("The documents on this machine differ from the run's documents: the split hash is different.")
    return {name: corpus.test.shown(row) for row, name in enumerate(corpus.test.ids)}


def recorded_data(config: Mapping[str, Any]) -> DataConfig:
    """Check and return only the data section of a run's config. Other sections may need the user's own packages."""
    source = config.get("data", {}).get("source", {}) if isinstance(config.get("data"), Mapping) else {}
    target = source.get("_target_") if isinstance(source, Mapping) else None
    if not is_allowed("data.source", target, ()):
        raise UserError(
            f"data.source._target_={shown(target)} is not a reader of imdbcls, so the run's documents are not read."
        )
    checked = check(config)
    used = ("data.source", *(f"data.{key}" for key in (*SPLIT_SETTINGS, *source)))
    mistakes = [mistake for mistake in checked.mistakes if mistake.startswith(used)]
    if mistakes:
        raise UserError(*mistakes)
    return checked.config.data
