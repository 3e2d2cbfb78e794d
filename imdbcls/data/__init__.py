"""Documents from their sources to batches: sources → splits → tokens → batches.

Nothing here imports anything heavy: validation of the configuration comes first and must be quick.
"""

from collections.abc import Callable, Mapping
from typing import Any


def read_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return id → text of the test split of the run with this resolved configuration (its `config.yaml`).

    The source is found by `config["data"]["name"]` among the project's own and never by `_target_`, so a run
    folder from elsewhere cannot name code to run. Raises UserError for a source that is not the project's,
    for keys that do not fit it, and for data that cannot be read any more.
    """
    import inspect

    from imdbcls.data.documents import Source
    from imdbcls.data.files import read_files
    from imdbcls.data.hub import read_hub
    from imdbcls.data.imdb import read_imdb
    from imdbcls.data.sample import read_sample
    from imdbcls.data.splits import SPLIT_SETTINGS, make_corpus
    from imdbcls.errors import UserError

    readers: dict[str, Callable[..., Source]] = {
        "files": read_files,
        "hub": read_hub,
        "imdb": read_imdb,
        "sample": read_sample,
    }
    data = config["data"]
    if data["name"] not in readers:
        raise UserError(f"data.name={data['name']!r} is none of {', '.join(readers)}; its texts cannot be read here.")
    reader = readers[data["name"]]
    arguments = {key: value for key, value in data["source"].items() if not key.startswith("_")}
    try:
        inspect.signature(reader).bind(**arguments)
        corpus = make_corpus(reader(**arguments), **{key: data[key] for key in SPLIT_SETTINGS})
    except (TypeError, KeyError) as error:
        raise UserError(f"The run's data section does not fit data={data['name']}: {error}.") from error
    return dict(zip(corpus.test.ids, corpus.test.texts, strict=True))
