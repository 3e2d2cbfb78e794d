"""What one of several processes does for all of them, once."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def once(marker: Path) -> Iterator[bool]:
    """Whether this process is to do it now: not where another does or has done it. An error leaves it undone.

    The marker file is locked meanwhile, and a killed process's lock is free: the next one then does it.
    """
    marker.parent.mkdir(parents=True, exist_ok=True)
    with marker.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.seek(0)
        if file.read():
            yield False
            return
        yield True
        file.write("done\n")
