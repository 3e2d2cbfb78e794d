"""File locks between processes. They use `filelock`, which calls flock on Linux and macOS.

The kernel releases a lock when its process ends, even after SIGKILL. On NFS (Linux 2.6.12 or later), flock locks the
file on the server, so the lock works between machines. An NFS mount with `nolock` or `local_lock=flock`, Lustre with
`localflock`, or BeeGFS without `tuneUseGlobalFileLocks` locks only within one machine, and a process cannot detect
that. On a file system without flock (Lustre with `noflock`), acquiring a lock raises OSError. filelock's fallback for
that case, `SoftFileLock`, is disabled. It treats the existence of a file as the lock, and a killed process would leave
that file behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock


def file_lock(path: Path, on_acquired: Callable[[int], None] | None = None) -> "FileLock":
    """Return a lock on `path` without acquiring it. After `acquire`, `on_acquired` is called with the file descriptor.

    `acquire` creates the file and never truncates it. It raises `filelock.Timeout` if another process still holds the
    lock after the timeout, and OSError if `path` is a symbolic link, cannot be written or cannot be locked.
    """
    from filelock import FileLock

    return FileLock(path, fallback_to_soft=False, on_acquired=on_acquired)


@contextmanager
def build_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Run the block in only one process at a time, and remove the lock file afterwards.

    If another process holds the lock, call `on_wait`, then wait for that process. If the file cannot be locked, run the
    block anyway: callers write atomically, so building the same thing twice only wastes time.
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
            path.unlink(missing_ok=True)  # remove it before releasing: a waiting process then locks a new file
            lock.release()
