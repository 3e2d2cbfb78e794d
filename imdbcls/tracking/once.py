"""Let only one of several processes do a piece of work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imdbcls.runtime.locks import file_lock


@contextlib.contextmanager
def once(marker: Path) -> Iterator[bool]:
    """Yield True if this process should do the work, and False if another process is doing it or has done it.

    The process that does the work locks the marker file during the block, and writes `done` to the file at the end. If
    the block raises an error or the process is killed, the next process that enters the block does the work.
    """
    from filelock import Timeout

    marker.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = file_lock(marker).acquire(blocking=False)
    except Timeout:
        yield False
        return
    with lock:
        is_first = not marker.read_text(encoding="utf-8")
        yield is_first
        if is_first:
            marker.write_text("done\n", encoding="utf-8")
