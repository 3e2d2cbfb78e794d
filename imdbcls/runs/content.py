"""Identify the files that a configuration names by their content: a path may be spelled in many ways.

A run is the same with `data.train=c.csv`, `/abs/c.csv` or a link to it, and on another machine with a copy in another
place. Another file in the same place makes another run.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.data_origin import PATH_KEYS
from imdbcls.runs.untrusted import sha256
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.model_files import local_model

# The files of a model's folder that decide what it computes: its README does not.
MODEL_FILES = (".json", ".safetensors", ".txt", ".model")
MAX_FILES = 200_000  # of a folder; a larger one is taken by its path
RACY_SECONDS = 2  # a file changed so recently may change again within one tick of the clock: its digest is not kept


def with_content_hashes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested configuration in which every file and folder that exists is named by its content.

    These are `backbone.path`, the paths of `data` and, in any section that the user added, every text with a slash
    that names something. A hub id stays as it is.
    """
    return {key: _value(value, (key,)) for key, value in config.items()}


def _value(value: Any, key: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _value(each, (*key, name)) for name, each in value.items()}
    if not isinstance(value, str) or not value:
        return value
    if key == ("backbone", "path"):
        return model_content_hash(value)
    is_place = key[0] == "data" and key[-1] in PATH_KEYS
    return content_hash(value) if is_place or os.sep in value else value


def model_content_hash(path: str) -> str:
    """The content of the model that `backbone.path` names; a hub id or a missing path stays as it is."""
    try:
        folder = local_model(path)
    except UserError:
        return path
    return path if folder is None else content_hash(str(folder), MODEL_FILES, below=False)


def content_hash(path: str, suffixes: tuple[str, ...] = (), *, below: bool = True) -> str:
    """`sha256:` and the digest of a file's bytes, or of a folder's files with their names.

    Of a folder only files with these suffixes count where any are given, and only with `below` those of its folders.
    Returns the path itself where nothing is there, and the absolute one of what cannot be read.
    """
    try:
        local = os.path.realpath(os.path.expanduser(path))
    except ValueError:  # a NUL
        return path
    try:
        if os.path.isfile(local):
            return f"sha256:{_digest_of_file(local)}"
        if os.path.isdir(local):
            return f"sha256:{_digest_of_folder(local, suffixes, below)}"
    except (OSError, ValueError):
        return local
    return path


def _digest_of_folder(folder: str, suffixes: tuple[str, ...], below: bool) -> str:
    """By the names and bytes of its files; kept under their names, sizes and times, since IMDB has 100,000."""
    found: list[tuple[str, str, os.stat_result]] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if below and not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or (suffixes and not name.endswith(suffixes)):
                continue
            path = os.path.join(parent, name)
            if os.path.isfile(path):  # not a pipe, nor a link to nothing
                found.append((os.path.relpath(path, folder), path, os.stat(path)))
        if len(found) > MAX_FILES:
            raise ValueError(f"{folder} holds more than {MAX_FILES:,} files")
    key = json.dumps([[name, *_state(status)] for name, _, status in found])

    def digest() -> str:
        parts = [[name, sha256(Path(path))] for name, path, _ in found]
        return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()

    newest = max((status.st_mtime for _, _, status in found), default=0.0)
    return _kept(f"folder {folder} {key}", newest, digest)


def _digest_of_file(path: str) -> str:
    status = os.stat(path)
    return _kept(f"file {path} {_state(status)}", status.st_mtime, lambda: sha256(Path(path)))


def _state(status: os.stat_result) -> list[int]:
    """What changes with a file's content, or with another file in its place."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _kept(key: str, changed: float, compute: Any) -> str:
    """Return a digest from this user's cache, or compute and cache it: large weights are read once.

    A cached digest has a checksum; a damaged one is computed again.
    """
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:40]
    place = default_cache_dir() / "digests" / name
    found = _read(str(place))
    if found is not None:
        return found
    digest = compute()
    if time.time() - changed > RACY_SECONDS:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, f"{digest} {_check(digest)}\n", durable=False)
    return digest


def _read(place: str) -> str | None:
    try:
        digest, _, check = Path(place).read_text(encoding="ascii").strip().partition(" ")
    except (OSError, ValueError):
        return None
    return digest if check == _check(digest) else None


def _check(digest: str) -> str:
    return hashlib.sha256(digest.encode()).hexdigest()[:8]
