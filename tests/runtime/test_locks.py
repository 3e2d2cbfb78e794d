"""Locks between processes: errors in a second process, killed processes, and file systems without locks."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import Timeout
from support.limits import HANG_SECONDS
from support.runs import ROOT

from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.locks import build_lock, file_lock

HOLD = """
import sys, time
from pathlib import Path
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.locks import build_lock
path = Path(sys.argv[2])
with RunFolder(path).locked() if sys.argv[1] == "run" else build_lock(path):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(kind: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that holds a lock until it reads a line from stdin."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_run_lock_is_released_when_its_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "study" / "run")
    holder = hold("run", folder.path)
    with pytest.raises(UserError, match=rf"is in use by process {holder.pid} on \S+\. Wait"), folder.locked():
        pass
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="srun started this command 4 times"), folder.locked():
        pass
    holder.kill()
    holder.communicate()
    with folder.locked():
        assert (folder.path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    with folder.locked():  # the lock can be acquired again after its release
        pass


def test_run_can_be_locked_while_compare_examines_the_lock(tmp_path: Path) -> None:
    """To find out whether a run is training, `compare` holds a shared lock for a moment, longer on a busy machine."""
    folder = RunFolder(tmp_path / "study" / "run")
    with folder.locked():
        pass
    with (folder.path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with folder.locked():
            pass


def test_killed_builder_releases_the_lock_and_finished_builder_removes_it(tmp_path: Path) -> None:
    path, waits = tmp_path / "entry.lock", []
    killed = hold("build", path)
    killed.kill()
    killed.communicate()
    assert path.exists()
    with build_lock(path, lambda: waits.append(1)):
        pass
    assert not waits and not path.exists()

    live = hold("build", path)

    def end_the_other() -> None:
        waits.append(1)
        live.communicate("\n", timeout=HANG_SECONDS)

    with build_lock(path, end_the_other):
        assert waits == [1] and path.exists()
        with pytest.raises(Timeout):
            file_lock(path).acquire(blocking=False)
    assert not path.exists()


def test_lock_in_a_removed_folder_is_not_acquired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process discards the new run after this process opened the lock file, but before it got the lock."""
    folder, other = RunFolder(tmp_path / "study" / "run"), RunFolder(tmp_path / "study" / "run")
    import filelock._unix

    lock_descriptor = filelock._unix.lock_fd_nonblocking

    def slow(descriptor: int) -> bool:
        monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", lock_descriptor)
        with other.locked():
            other.discard()
        return lock_descriptor(descriptor)

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", slow)
    other.path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"was in use by another process\. Run the command again\."), folder.locked():
        pass


@pytest.mark.parametrize("kind", ["symbolic link", "pipe"])
def test_locks_on_links_and_pipes_are_refused(kind: str, tmp_path: Path) -> None:
    path, outside = tmp_path / "run" / ".lock", tmp_path / "outside"
    path.parent.mkdir()
    outside.write_text("kept")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside)
        with pytest.raises(OSError, match="symbolic links"):
            file_lock(path).acquire(blocking=False)
        with build_lock(path):  # continues without a lock
            assert path.is_symlink()
    is_refused = pytest.raises(UserError, match=r"\.lock is (a symbolic link|not a regular file)")
    with is_refused, RunFolder(path.parent).locked():
        pass
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks_blocks_runs_but_not_caches(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    is_refused = pytest.raises(UserError, match="is on a file system that cannot lock files")
    with is_refused, RunFolder(tmp_path / "run").locked():
        pass
    with build_lock(tmp_path / "entry.lock"):
        pass
