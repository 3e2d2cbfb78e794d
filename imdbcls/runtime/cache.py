"""Entries of the cache on disk: built in a folder beside, renamed into place whole, removed once they are damaged."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imdbcls.runtime.console import warn

# A building folder older than this belongs to a process that was killed. In seconds.
STALE_AFTER = 24 * 3600.0
BUILDING = ".building-"  # prefix of the name of an unfinished entry


def cache_folder(chosen: str | Path | None) -> Path:
    """The folder of the cache: `chosen` where it is not None, else `default_cache_dir()`."""
    return default_cache_dir() if chosen is None else Path(chosen).expanduser()


def default_cache_dir() -> Path:
    """Return the folder named by IMDBCLS_CACHE, else `imdbcls` in XDG_CACHE_HOME, else `~/.cache/imdbcls`."""
    if chosen := os.environ.get("IMDBCLS_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "imdbcls"


@contextlib.contextmanager
def building(entry: Path) -> Iterator[Path]:
    """An empty folder to build an entry in, which takes the entry's place at the end of the block.

    Two processes may build the same at once: the quicker one's stays. Nothing is left after an error or a signal, and
    what a killed process left is removed a day later. Raises OSError where the cache cannot be written.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(entry.parent)
    folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=entry.parent))
    try:
        yield folder
        with contextlib.suppress(OSError):
            # Fails where another process was quicker; its entry holds the same, and whoever reads it checks it.
            os.rename(folder, entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(entry: Path, cache: str, reason: object) -> None:
    """Remove a damaged entry, and say so."""
    warn(f"The {cache} entry {entry} is damaged ({reason}) and is built again.")
    # Renamed first: removing takes a moment in which another process could find half an entry.
    doomed = Path(tempfile.mkdtemp(prefix=".damaged-", dir=entry.parent))
    with contextlib.suppress(OSError):
        os.rename(entry, doomed / entry.name)
    shutil.rmtree(doomed, ignore_errors=True)


def to_disk(file: Any) -> None:
    """Have the operating system write an open file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())


def remove_stale(folder: Path) -> None:
    """Remove the unfinished entries of killed processes."""
    for left in folder.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(left, ignore_errors=True)
