"""Documents from their sources to batches: sources → splits → tokens → batches.

Nothing here imports anything heavy: validation of the configuration comes first and must be quick.
"""

from collections.abc import Callable, Mapping
from typing import Any


def read_texts(config: Mapping[str, Any], split_hash: str) -> dict[str, str]:
    """Return id → text of the test split of the run with this resolved configuration (its `config.yaml`).

    A run folder may come from elsewhere. So the source is found by `config["data"]["name"]` among the project's own
    and never by `_target_`: it cannot name code to run. Texts are returned only if all documents found here hash to
    the run's `split_hash`: it cannot have other files of this machine shown as its documents. The network is not
    asked: a hub's data set comes from the cache.

    Raises UserError for a source that is not the project's, for keys that do not fit it, for data that cannot be read
    any more, and for documents that are not the run's.
    """
    import inspect
    from pathlib import Path

    from imdbcls.data.documents import Source
    from imdbcls.data.files import read_files
    from imdbcls.data.hub import read_hub
    from imdbcls.data.imdb import read_imdb
    from imdbcls.data.sample import read_sample
    from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
    from imdbcls.errors import UserError
    from imdbcls.runtime.hub import offline

    readers: dict[str, Callable[..., Source]] = {
        "files": read_files,
        "hub": read_hub,
        "imdb": read_imdb,
        "sample": read_sample,
    }
    data: Any = config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in readers:
        raise UserError(f"data.name={name!r} is none of {', '.join(readers)}; its texts cannot be read here.")
    reader = readers[name]
    try:
        arguments = {key: value for key, value in data["source"].items() if not key.startswith("_")}
        inspect.signature(reader).bind(**arguments)
        if name == "hub" and Path(arguments["path"]).exists():
            raise UserError(f"data.path={arguments['path']} is a folder here, which may name files on the network.")
        with offline():
            corpus = make_corpus(reader(**arguments), **{key: data[key] for key in SPLIT_SETTINGS})
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(f"The run's data section does not fit data={name}: {error}.") from error
    if corpus.split_hash != split_hash:
        raise UserError("The documents found here are not those of the run: their split_hash differs.")
    return dict(zip(corpus.test.ids, corpus.test.texts, strict=True))
