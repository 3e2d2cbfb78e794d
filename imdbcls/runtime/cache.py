"""The folder of the cache, and its damaged entries."""

import contextlib
import logging
import os
from pathlib import Path

from imdbcls.runtime.atomic import scratch_folder

logger = logging.getLogger(__name__)


def cache_folder(chosen: str | Path | None) -> Path:
    """Return `chosen`, or `default_cache_dir()` if it is None."""
    return default_cache_dir() if chosen is None else Path(chosen).expanduser()


def default_cache_dir() -> Path:
    """Return IMDBCLS_CACHE, else the `imdbcls` folder of the user's caches.

    That is `~/.cache/imdbcls` on Linux, `~/Library/Caches/imdbcls` on macOS; XDG_CACHE_HOME replaces the part before
    `imdbcls`.
    """
    if chosen := os.environ.get("IMDBCLS_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("imdbcls", appauthor=False)


def remove_damaged(entry: Path, cache: str, reason: object) -> None:
    """Remove a damaged entry of the cache, and log why."""
    logger.warning(f"The {cache} entry {entry} is damaged ({reason}) and is built again.")
    # Moved first, because removing takes a moment in which another process could find half an entry.
    with scratch_folder(entry.parent) as folder, contextlib.suppress(OSError):
        os.rename(entry, folder / entry.name)
