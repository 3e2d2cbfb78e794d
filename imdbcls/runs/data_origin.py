"""Whether the documents that a run folder names may be read: a folder from elsewhere must not choose what is opened.

A training leaves a marker for its source in this user's cache, next to the compiled kernels. A source with a marker was
chosen by this user on this machine; what only a run's `config.yaml` names needs `--trust-source` or `--data`.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.hub_ids import is_hub_id

READER = "imdbcls.data.{0}.read_{0}"
READER_TARGET = re.compile(r"imdbcls\.data\.(\w+)\.read_\1")
PATH_KEYS = ("path", "train", "validation", "test")  # the keys of a source that name a file, a folder or a hub id
# Read without a marker: the shipped documents, and the hub id that the project itself names in conf/data/imdb.yaml.
ALWAYS_READ = (
    {"_target_": "imdbcls.data.sample.read_sample"},
    {"_target_": "imdbcls.data.imdb.read_imdb", "path": "stanfordnlp/imdb"},
)


def remember_source(source: Mapping[str, Any]) -> None:
    """Leave the marker of a source that the user chose. A cache that cannot be written leaves none."""
    marker = marker_of(source)
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def is_remembered(source: Mapping[str, Any]) -> bool:
    """Whether a training by this user on this machine read the same source."""
    return marker_of(source).is_file()


def marker_of(source: Mapping[str, Any]) -> Path:
    """Named by the source with absolute paths: a relative path means another file in another working directory."""
    about = json.dumps(with_absolute_paths(source), sort_keys=True, default=str)
    return default_cache_dir() / "sources" / hashlib.sha256(about.encode(errors="surrogatepass")).hexdigest()[:40]


def with_absolute_paths(source: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a source in which every file or folder that exists is named by its absolute path without links."""
    return {key: absolute(value) if key in PATH_KEYS else value for key, value in source.items()}


def absolute(place: Any) -> Any:
    local = os.path.expanduser(place) if isinstance(place, str) else ""
    return os.path.realpath(local) if local and os.path.exists(local) else place


def named_sources(source: Mapping[str, Any]) -> dict[str, str]:
    """What a source reads, by the key that names it."""
    return {f"data.{key}": str(source[key]) for key in PATH_KEYS if source.get(key)}


def describe_source(source: Mapping[str, Any]) -> str:
    """Where a source reads from, in the words of the command line."""
    places = [f"{key}={shown(place)}" for key, place in named_sources(source).items()]
    return ", ".join(places) or f"the source {shown(source.get('_target_'))}"


def require_own_source(source: Mapping[str, Any], run: Path) -> None:
    """Refuse (UserError) documents that only the run's `config.yaml` names; they are not opened to find out."""
    is_shipped = dict(source) in ALWAYS_READ and with_absolute_paths(source) == source
    if is_shipped or is_remembered(source):
        return
    local = [place for place in named_sources(source).values() if os.path.exists(os.path.expanduser(place))]
    remote = [place for place in named_sources(source).values() if is_hub_id(place)]
    if named_sources(source) and not local and not remote:
        return  # there is nothing to open: the reader reports what is missing
    raise UserError(
        f"{run} reads its documents from {describe_source(source)}, and no training of yours on this machine has read "
        "them. Add --trust-source if you trust this run folder, or --data PATH to read the documents from your own "
        "copy."
    )


def read_from(source: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The same source with its documents at `path`, which the user named: the checked copy of a run's documents.

    A source of several files (`data=files`) takes the folder that holds them under the names that the run has.
    """
    target = source.get("_target_")
    if target in (READER.format("imdb"), READER.format("hub")):
        return {**source, "path": path}
    if target != READER.format("files"):
        raise UserError(
            f"--data={path} is for runs with data=files, imdb or hub; this run reads {describe_source(source)}."
        )
    names = {key: os.path.basename(str(source[key])) for key in PATH_KEYS if source.get(key)}
    if os.path.isdir(os.path.expanduser(path)):
        return {**source, **{key: os.path.join(path, name) for key, name in names.items()}}
    if len(names) == 1:
        return {**source, **dict.fromkeys(names, path)}
    raise UserError(f"--data={path} is not a folder; give the one that holds {', '.join(names.values())}.")
