"""Build the object that a section of the config describes, and the documents: the only caller of `instantiate`.

Imports no torch: `compare` reads the texts of documents through it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from imdbcls.config.allowed_targets import borrowed_targets, is_allowed
from imdbcls.config.checking import check
from imdbcls.config.schema import Built, DataConfig
from imdbcls.config.signatures import ALL_LAYERS
from imdbcls.data.documents import Corpus
from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.hub import offline


def construct(section: Built, **given: Any) -> Any:
    """Call Hydra's `instantiate` with what the builder gives; raise the user's mistakes without Hydra's wrapper."""
    assert given.keys() <= section.given | {ALL_LAYERS}, f"{type(section).__name__} does not declare {given.keys()}"
    for mistake in borrowed_targets(section.node):
        raise UserError(mistake)
    try:
        return instantiate(section.node, **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if error.__cause__ is None or isinstance(error.__cause__, TypeError | ValueError):
            # An option too many, one of the wrong kind, or one of Hydra's own (_args_, _convert_) that it cannot read.
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{section.target} refuses its settings: {reason}") from error
        raise


def build_corpus(data: DataConfig) -> Corpus:
    """Return the documents that `keep_corpus` has read for this process and its parent, else read them now."""
    kept = _kept_corpus.get(corpus_key(data))
    if kept is not None:
        return kept
    settings = {key: getattr(data, key) for key in SPLIT_SETTINGS}
    return make_corpus(construct(data.source), **settings)


def keep_corpus(data: DataConfig) -> None:
    """Read the documents for all processes that are forked from this one: the jobs of a sweep share them."""
    key = corpus_key(data)
    if key not in _kept_corpus:
        _kept_corpus.clear()
        _kept_corpus[key] = build_corpus(data)


def corpus_key(data: DataConfig) -> str:
    return json.dumps(data.model_dump(include={"source", *SPLIT_SETTINGS}), sort_keys=True)


_kept_corpus: dict[str, Corpus] = {}  # by `corpus_key`; one at most


def read_texts(config: Mapping[str, Any], split_hash: str) -> dict[str, str]:
    """Return id → text of the test split of a finished run, from the config in its `config.yaml`.

    A run folder may come from elsewhere, so only the project's own readers are called: `_target_` cannot name other
    code. Texts are returned only if all documents found here hash to the run's `split_hash`: the run cannot have other
    files of this machine shown as its documents. The network is not used: a hub's data set comes from the cache.

    Raises UserError for a source that is not the project's, for keys that do not fit it, for data that cannot be read
    any more, and for documents that are not the run's.
    """
    data = recorded_data(config)
    path = data.source.arguments.get("path")
    if data.source.target == "imdbcls.data.hub.read_hub" and Path(str(path)).exists():
        raise UserError(f"data.path={path} is a folder here, which may name files on the network.")
    with offline():
        corpus = build_corpus(data)
    if corpus.split_hash != split_hash:
        raise UserError("The documents found here are not those of the run: their split_hash differs.")
    return dict(zip(corpus.test.ids, corpus.test.texts, strict=True))


def recorded_data(config: Mapping[str, Any]) -> DataConfig:
    """Check the data section of a run's recorded config, whose other sections may need the user's packages."""
    source = config.get("data", {}).get("source", {}) if isinstance(config.get("data"), Mapping) else {}
    target = source.get("_target_") if isinstance(source, Mapping) else None
    if not is_allowed("data.source", target, ()):
        raise UserError(
            f"data.source._target_={shown(target)} is not a reader of imdbcls; its texts cannot be read here."
        )
    checked = check(config)
    used = ("data.source", *(f"data.{key}" for key in (*SPLIT_SETTINGS, *source)))
    mistakes = [mistake for mistake in checked.mistakes if mistake.startswith(used)]
    if mistakes:
        raise UserError(*mistakes)
    return checked.config.data
