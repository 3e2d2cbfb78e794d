"""Replace the paths in a config with content hashes, so that a run's identity does not depend on where its files are.

A file has the same hash under a relative path, under an absolute path, through a link, and as a copy on another
machine. If the content of the file changes, the config describes a different run.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.data_origin import PATH_KEYS
from imdbcls.runs.untrusted import sha256
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.cache import default_cache_dir
from imdbcls.runtime.file_patterns import is_pattern, named_files
from imdbcls.runtime.model_files import architecture, is_run, local_model, weights_of_run

# Only files with these extensions affect what a model computes. A README, for example, has no effect.
MODEL_FILES = (".json", ".safetensors", ".txt", ".model")
UNLABELLED_AUTO = ("unlabelled", "auto")  # `data.unlabelled=auto` does not name a path
TEXT_KEYS = ("text_separator", "delimiter")  # keys of `data` whose slashes are text; so are those of every `*_column`
MAX_FILES = 200_000  # a folder with more files is identified by its path
# A digest is not cached within this time after the last change, because another change within the same tick of the file
# system's clock could go unnoticed.
RACY_SECONDS = 2


def with_content_hashes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested config in which paths to existing files and folders are replaced by content hashes.

    `backbone.path`, the path keys of `data` (except `data.unlabelled=auto`), and every other string with a slash are
    treated as paths, except separators and names of columns. If nothing exists at a path, as for a hub id, the string
    is unchanged. A path key of `data` can also be a pattern or a list. If it names several files, it is replaced by the
    list of their hashes, in order. If it names a single file, it is replaced by one hash.
    """
    return {key: _replace_paths(value, (key,)) for key, value in config.items()}


def _replace_paths(value: Any, key: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _replace_paths(nested, (*key, name)) for name, nested in value.items()}
    is_data_path = key[0] == "data" and key[-1] in PATH_KEYS and (key[-1], value) != UNLABELLED_AUTO
    if is_data_path and (isinstance(value, list) or (isinstance(value, str) and is_pattern(value))):
        hashes = [content_hash(path) for path in named_files(value)]
        return hashes[0] if len(hashes) == 1 else hashes
    if not isinstance(value, str) or not value:
        return value
    if key == ("backbone", "path"):
        return model_content_hash(value)
    is_text = key[0] == "data" and (key[-1] in TEXT_KEYS or key[-1].endswith("_column"))
    return content_hash(value) if is_data_path or (os.sep in value and not is_text) else value


def model_content_hash(path: str) -> str:
    """Return the content hash of the local model at `backbone.path`, or `path` itself if it is not a local model."""
    try:
        folder = local_model(path)
    except UserError:
        return path
    if folder is None:
        return path
    if is_run(folder):
        parts = content_hash(str(architecture(folder)), MODEL_FILES, recursive=False), weights_of_run(folder)
        return f"{parts[0]} {content_hash(str(parts[1]))}"
    return content_hash(str(folder), MODEL_FILES, recursive=False)


def content_hash(path: str, suffixes: tuple[str, ...] = (), *, recursive: bool = True) -> str:
    """Return `sha256:` and the digest of a file's bytes, or of the names and bytes of a folder's files.

    For a folder, `suffixes` restricts the files by extension, and `recursive` includes the files of its subfolders.
    Return `path` itself if nothing exists there. Return the absolute path if a file cannot be read, or if the folder
    contains more than `MAX_FILES` files.
    """
    try:
        local = os.path.realpath(os.path.expanduser(path))
    except ValueError:  # the path contains a NUL
        return path
    try:
        if os.path.isfile(local):
            return f"sha256:{_digest_of_file(local)}"
        if os.path.isdir(local):
            return f"sha256:{_digest_of_folder(local, suffixes, recursive)}"
    except (OSError, ValueError):
        return local
    return path


def _digest_of_folder(folder: str, suffixes: tuple[str, ...], recursive: bool) -> str:
    """Return the digest of the names and bytes of a folder's files; hidden files and folders are ignored.

    Reading all files can be slow (the IMDB folder, for example, has 100,000 files), so the digest is cached. The cache
    key consists of the path of the folder and of the name and `_state` of each file.
    """
    found: list[tuple[str, str, os.stat_result]] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or (suffixes and not name.endswith(suffixes)):
                continue
            path = os.path.join(parent, name)
            if os.path.isfile(path):  # skips pipes and broken links
                found.append((os.path.relpath(path, folder), path, os.stat(path)))
        if len(found) > MAX_FILES:
            raise ValueError(f"{folder} contains more than {MAX_FILES:,} files")
    key = json.dumps([[name, *_state(status)] for name, _, status in found])

    def digest() -> str:
        parts = [[name, sha256(Path(path))] for name, path, _ in found]
        return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()

    newest = max((status.st_mtime for _, _, status in found), default=0.0)
    return _cached_digest(f"folder {folder} {key}", newest, digest)


def _digest_of_file(path: str) -> str:
    status = os.stat(path)
    return _cached_digest(f"file {path} {_state(status)}", status.st_mtime, lambda: sha256(Path(path)))


def _state(status: os.stat_result) -> list[int]:
    """Return a file's inode, size, mtime and ctime. At least one changes if the file is modified or replaced."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _cached_digest(key: str, changed: float, compute: Callable[[], str]) -> str:
    """Return the digest that is cached under `key`. If there is none, compute the digest and cache it.

    `changed` is the time of the last change to the files (Unix time in seconds). If this time is less than
    `RACY_SECONDS` ago, the digest is not cached. A cache entry consists of the digest and a checksum. If the checksum
    does not match, the digest is computed again.
    """
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:40]
    entry = default_cache_dir() / "digests" / name
    found = _read(entry)
    if found is not None:
        return found
    digest = compute()
    if time.time() - changed > RACY_SECONDS:
        with contextlib.suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(entry, f"{digest} {_checksum(digest)}\n", durable=False)
    return digest


def _read(entry: Path) -> str | None:
    try:
        digest, _, checksum = entry.read_text(encoding="ascii").strip().partition(" ")
    except (OSError, ValueError):
        return None
    return digest if checksum == _checksum(digest) else None


def _checksum(digest: str) -> str:
    return hashlib.sha256(digest.encode()).hexdigest()[:8]
