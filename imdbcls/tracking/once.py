"""Do something once, whichever of several processes does it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imdbcls.runtime.locks import file_lock


@contextlib.contextmanager
def once(marker: Path) -> Iterator[bool]:
    """Yield True if this process is to do it now, False if another is doing it or has done it.

    The marker file is locked in this block, and marked as done if the block raises nothing. After an error, or if the
    process is killed, the next process does it.
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
