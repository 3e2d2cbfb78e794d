"""Locks between processes, held on files with `filelock`, which uses flock on Linux and macOS.

The kernel releases a lock when its process ends, also after SIGKILL. On NFS (Linux 2.6.12 or later), flock becomes a
lock on the server and holds between machines. A mount with `nolock` or `local_lock=flock`, or Lustre with `localflock`,
locks only within one machine, and no process can detect that. Where the file system has no flock at all (Lustre with
`noflock`), taking a lock raises OSError. filelock's own fallback there, `SoftFileLock`, is switched off: it tests
whether a file exists, and that file outlives a killed process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock


def file_lock(path: Path, on_acquired: Callable[[int], None] | None = None) -> "FileLock":
    """Return the lock on `path`, not yet held; `on_acquired` gets the file's descriptor as soon as it is.

    `acquire` creates the file and never truncates it. It raises `filelock.Timeout` if another process holds the lock
    when the time is up, and OSError if `path` is a symbolic link, cannot be written or cannot be locked.
    """
    from filelock import FileLock

    return FileLock(path, fallback_to_soft=False, on_acquired=on_acquired)


@contextmanager
def build_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Let one process at a time build something; the lock file is removed afterwards.

    If another process holds the lock, call `on_wait`, then wait for that process. Without a usable lock, continue: the
    callers write atomically, so two builders cost only time.
    """
    from filelock import Timeout

    lock = file_lock(path)
    with suppress(OSError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)  # while it is held: a process that waits then locks a new file
            lock.release()
