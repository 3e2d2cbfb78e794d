"""Write files and folders atomically: a reader sees either the old or the new content, never partial content.

Content is written under a temporary name in the same folder and then renamed. If a process is killed, only an
unfinished temporary file or folder is left, which a later writer removes.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SCRATCH_PREFIX = ".building-"
STALE_SECONDS = 24 * 3600.0  # a temporary file or folder older than this was left by a killed process


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to. After the block, the temporary file replaces `path`.

    After an error, the temporary file is removed. With `durable`, the content and the rename are flushed to the disk
    (fsync). The `filename` of an OSError is changed from the temporary path to `path`.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # a link here would make the caller overwrite another file
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
    """Yield a new, empty folder in `parent`, and remove it after the block.

    Old scratch folders that killed processes have left are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in stale(parent.glob(f"{SCRATCH_PREFIX}*")):
        shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stale(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the temporary files or folders that have not changed for `STALE_SECONDS`."""
    for path in paths:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield path


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which is renamed to `path` after the block.

    If several processes create the same folder, the folder of the first process to finish is kept. Raise OSError if the
    temporary folder cannot be created.
    """
    with scratch_folder(path.parent) as folder:
        yield folder
        with contextlib.suppress(OSError):  # another process has already created the folder
            os.rename(folder, path)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, `<name>.new`, to write to. After the block, the new folder replaces `path`.

    The replaced folder is renamed to `<name>.old`. Only one process may write at a time. After the first call, at least
    one of `path`, `<name>.new` and `<name>.old` is complete at every moment. The caller must sync the files that it
    writes in the block; this function then syncs the folders and their renames.
    """
    new, old = new_name(path), old_name(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # before writing, so that there are never three copies on the disk
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
    """Flush the content of a file, or the entries of a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Any) -> None:
    """Flush the content of an open file to the disk (fsync)."""
    file.flush()
    os.fsync(file.fileno())
