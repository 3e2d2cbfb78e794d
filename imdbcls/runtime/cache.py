"""Locate the cache folder, and remove damaged entries from it."""

import contextlib
import logging
import os
from pathlib import Path

from imdbcls.runtime.atomic import scratch_folder

logger = logging.getLogger(__name__)


def cache_folder(chosen: str | Path | None) -> Path:
    """Return `chosen`, or `default_cache_dir()` if `chosen` is None."""
    return default_cache_dir() if chosen is None else Path(chosen).expanduser()


def default_cache_dir() -> Path:
    """Return the folder in the variable IMDBCLS_CACHE, or by default `imdbcls` in the user's cache directory.

    The user's cache directory is XDG_CACHE_HOME, or by default `~/.cache` on Linux and `~/Library/Caches` on macOS.
    """
    if chosen := os.environ.get("IMDBCLS_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("imdbcls", appauthor=False)


def remove_damaged(entry: Path, cache: str, reason: object) -> None:
    """Remove a damaged entry from the cache, and log the reason."""
    logger.warning(f"The {cache} entry {entry} is damaged ({reason}). Rebuilding it.")
    # Move the entry before removing it: removal takes time, and another process could read a half-removed entry.
    with scratch_folder(entry.parent) as folder, contextlib.suppress(OSError):
        os.rename(entry, folder / entry.name)
