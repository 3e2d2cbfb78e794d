"""Replace files and folders atomically: a reader finds the old content or the new, never a part of either.

Everything is written under another name in the same folder and renamed. A process that is killed leaves at most the
unfinished file or folder, which the next writer removes.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCRATCH_PREFIX = ".building-"
# Scratch folders older than this belong to a killed process. In seconds.
STALE_AFTER = 24 * 3600.0


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to. After the block it replaces `path`; after an error it is removed.

    With `durable`, the content and the new name are on the disk afterwards (fsync). An OSError names `path`.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # in a folder from elsewhere it could be a link, which writing would follow
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    with replacing(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new, empty folder in `parent` and remove it after the block, with those that killed processes left."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which becomes `path` after the block.

    Several processes may create the same folder at once: the first one stays. Raises OSError if nothing can be written.
    """
    with scratch_folder(path.parent) as folder:
        yield folder
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(folder, path)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield `<name>.new`, an empty folder to write to. After the block it replaces `path`, which becomes `<name>.old`.

    Only one process may write. At every moment a complete folder has one of the three names. The block syncs the files
    that it writes; the new names are on the disk afterwards.
    """
    new, old = new_name(path), old_name(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # now, so that the disk never has to hold three
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        sync(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if path.exists():
        path.rename(old)
    new.rename(path)
    sync(path.parent)
    sync(path.parent.parent)  # `path.parent` may be new as well


def new_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def old_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def sync(path: Path) -> None:
    """Make the operating system write a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Any) -> None:
    """Make the operating system write an open file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())
