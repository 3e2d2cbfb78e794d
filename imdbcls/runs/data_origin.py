"""Decide whether the data source in a run's config may be read. An untrusted run folder must not choose files to read.

Training writes a marker file for its data source to the user's cache. The marker shows that this user has chosen the
source on this machine. Without a marker, the source comes only from the run's `config.yaml`, so the user must pass
`--trust-source` or `--data` to read documents.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.file_patterns import is_pattern, named_files
from imdbcls.runtime.hub_ids import is_hub_id

READER = "imdbcls.data.{0}.read_{0}"
READER_TARGET = re.compile(r"imdbcls\.data\.(\w+)\.read_\1")
PATH_KEYS = ("path", "train", "validation", "test", "unlabelled")  # keys of a data source: files, folders, hub ids
# Sources that need no marker: the sample in the package, and the hub id in conf/data/imdb.yaml.
ALWAYS_ALLOWED = (
    {"_target_": "imdbcls.data.sample.read_sample"},
    {"_target_": "imdbcls.data.imdb.read_imdb", "path": "stanfordnlp/imdb"},
)


def remember_source(source: Mapping[str, Any]) -> None:
    """Write the marker file of a data source that the user chose. Do nothing if the cache is not writable."""
    marker = marker_of(source)
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def is_remembered(source: Mapping[str, Any]) -> bool:
    """Return whether a data source has a marker file: this user has trained on the source on this machine."""
    return marker_of(source).is_file()


def marker_of(source: Mapping[str, Any]) -> Path:
    """Return the path of a data source's marker file. The file name is a hash of the source's config.

    Paths are made absolute before hashing, because a relative path names different files in different directories.
    """
    about = json.dumps(with_absolute_paths(source), sort_keys=True, default=str)
    return default_cache_dir() / "sources" / hashlib.sha256(about.encode(errors="surrogatepass")).hexdigest()[:40]


def with_absolute_paths(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a source in which the paths of existing files and folders are absolute, with links resolved.

    A pattern is replaced by the list of the files that it matches now.
    """
    return {key: absolute(value) if key in PATH_KEYS else value for key, value in source.items()}


def absolute(path: Any) -> Any:
    if isinstance(path, list) or (isinstance(path, str) and is_pattern(path)):
        return [absolute(each) for each in named_files(path)]
    local = os.path.expanduser(path) if isinstance(path, str) else ""
    return os.path.realpath(local) if local and os.path.exists(local) else path


def named_sources(source: Mapping[str, Any]) -> dict[str, list[str]]:
    """Map config keys to the files, folders, patterns and hub ids that a source names."""
    given = {f"data.{key}": source[key] for key in PATH_KEYS if source.get(key)}
    return {key: list(map(str, value if isinstance(value, list) else [value])) for key, value in given.items()}


def describe_source(source: Mapping[str, Any]) -> str:
    """Return the paths and hub ids of a source as command-line arguments, for a message.

    If the source has neither, return its `_target_`.
    """
    named = {
        key: paths[0] if len(paths) == 1 else f"[{','.join(paths)}]" for key, paths in named_sources(source).items()
    }
    arguments = [f"{key}={shown(paths)}" for key, paths in named.items()]
    return ", ".join(arguments) or f"the source {shown(source.get('_target_'))}"


def require_own_source(source: Mapping[str, Any], run: Path) -> None:
    """Raise UserError if reading a data source needs the user's permission. The source is not opened.

    No permission is needed for a source in `ALWAYS_ALLOWED` and for a source with a marker file. Permission is also not
    needed if the source names only local files and all of them are missing.
    """
    is_allowed = dict(source) in ALWAYS_ALLOWED and with_absolute_paths(source) == source
    if is_allowed or is_remembered(source):
        return
    named = [path for paths in named_sources(source).values() for path in paths]
    local = [path for path in named_files(named) if os.path.exists(os.path.expanduser(path))]
    remote = [path for path in named if is_hub_id(path)]
    if named and not local and not remote:
        return  # no file can be opened, and the reader reports the missing files
    raise UserError(
        f"{run} reads its documents from {describe_source(source)}, but no training on this machine has used these "
        "documents. Add --trust-source if you trust this run folder. For data=files, imdb or hub, you can instead add "
        "--data PATH to read your own copy of the documents."
    )


def read_from(source: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the source with its paths replaced by `path`, the user's own copy of the documents (`--data`).

    For `data=files`, `path` is a folder. It must contain the files at the relative paths that `names_in_copy` returns.
    If the source names only one file or pattern, `path` can also be a file or a pattern. Raise UserError if the source
    is not `data=files`, `data=imdb` or `data=hub`, or if it names several files and `path` is not a folder.
    """
    target = source.get("_target_")
    if target in (READER.format("imdb"), READER.format("hub")):
        return {**source, "path": path}
    if target != READER.format("files"):
        raise UserError(
            f"--data={path} can only be used for runs with data=files, imdb or hub; this run reads "
            f"{describe_source(source)}. Leave out --data."
        )
    named = {key.removeprefix("data."): paths for key, paths in named_sources(source).items()}
    copies = names_in_copy([each for paths in named.values() for each in paths])
    names = {key: [copies[each] for each in paths] for key, paths in named.items()}
    if os.path.isdir(os.path.expanduser(path)):
        moved = {key: [os.path.join(path, name) for name in found] for key, found in names.items()}
        return {**source, **{key: found if isinstance(source[key], list) else found[0] for key, found in moved.items()}}
    every_name = list(dict.fromkeys(name for found in names.values() for name in found))
    if len(every_name) == 1:
        return {**source, **dict.fromkeys(names, path)}
    raise UserError(f"--data={path} is not a folder. Pass the folder that contains {', '.join(every_name)}.")


def names_in_copy(paths: Sequence[str]) -> dict[str, str]:
    """Map files and patterns to their paths in the folder with the user's own copy.

    The path is the file name. If two different files share a name, the path of each file is relative to the deepest
    common folder of all files, such as `a/data.csv` and `b/data.csv`. No path leads out of the folder with the copy.
    """
    full = {path: os.path.abspath(os.path.expanduser(path)) for path in paths}
    different = set(full.values())
    if len({os.path.basename(path) for path in different}) == len(different):
        return {path: os.path.basename(each) for path, each in full.items()}
    parent = os.path.commonpath([os.path.dirname(path) for path in different])
    return {path: os.path.relpath(each, parent) for path, each in full.items()}
