"""Limits of the machine (memory, threads, open files, permissions, names) end a command with one sentence."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.processes import run_module
from support.runs import TINY

from imdbcls.errors import UserError
from imdbcls.runtime import limits
from imdbcls.runtime.limits import explain, is_out_of_memory, require_threads


class SafetensorError(Exception):
    """An error with the same name as safetensors' own."""


class ArrowMemoryError(MemoryError):
    pass


class PanicException(BaseException):
    """An error like the one that pyo3 raises if Rust code panics."""


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory (MemoryError). Free some memory. For training, you can also"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (SafetensorError("Error while mapping: Cannot allocate memory (os error 12)"), "not enough memory"),
        (ArrowMemoryError("malloc of size 4294967296 failed"), "not enough memory"),
        (RuntimeError("std::bad_alloc"), "not enough memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "not enough memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "not enough memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "not enough memory"),
        (RuntimeError("can't start new thread"), "No more threads or processes can be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "No more threads or processes"),
        (
            PanicException("ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }"),
            "No more threads",
        ),
        (OSError(errno.EMFILE, "Too many open files", "a.parquet"), "Too many files are open"),
        (RuntimeError("[Errno 24] Too many open files"), "Too many files are open"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "model.safetensors"), "There is no space left to write"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "There is no space left to write"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "/cache: Permission denied. Change its perm"),
        (OSError(errno.EROFS, "Read-only file system", "/cache/x"), "/cache/x: Read-only file system."),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), "Use a shorter name."),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: Not a directory. Choose another path."),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/no']"),
            "Set TMPDIR to a writable folder",
        ),
        (caused(ModuleNotFoundError("Could not import module 'BertModel'."), MemoryError()), "not enough memory"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_error_caused_by_a_limit_gives_one_sentence(error: BaseException, words: str) -> None:
    sentence = explain(error)
    assert sentence is not None and words in str(sentence)
    assert len(str(sentence)) < 500 and "\n" not in str(sentence)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("out of memory"),
        ValueError("label 'Too many open files' is not one of 0, 1"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        RuntimeError("shapes do not match"),
        RuntimeError("os error 280"),
        ModuleNotFoundError("No module named 'peft'"),
        UserError("There is not enough memory."),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_errors_are_unchanged(error: BaseException) -> None:
    assert explain(error) is None


def test_out_of_memory_is_distinguished_from_other_limits() -> None:
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("can't start new thread"))


def test_message_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (12, 12))
    assert "or raise the limit: this process may open 12 files (ulimit -n)." in str(explain(OSError(errno.EMFILE, "")))
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (limits.resource.RLIM_INFINITY, -1))
    assert "raise the limit" not in str(explain(OSError(errno.EMFILE, "")))


def test_threads_are_tried_before_openmp_can_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    require_threads(4)

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    with pytest.raises(UserError, match="OMP_NUM_THREADS=1"):
        require_threads(4)


def limited(folder: Path, limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "limited", sys.executable, "-m", *arguments]
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "2"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "arguments", "words"),
    [
        ("-v 60000", ("imdbcls.train", *TINY), "(ulimit -v)"),
        ("-v 800000", ("imdbcls.train", *TINY), "This process is limited to 0.82 GB of address space (ulimit -v)"),
        ("-v 800000", ("imdbcls.data", "data=sample", "backbone=tiny"), "This process is limited to 0.82 GB"),
        ("-n 5", ("imdbcls.train", *TINY), "this process may open 5 files (ulimit -n)"),
    ],
)
def test_command_under_a_limit_ends_with_one_sentence(
    limit: str, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = limited(tmp_path, limit, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_too_long_name_and_blocking_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for setting, words in (("runs_dir=" + "x" * 300, "File name too long"), ("runs_dir=taken/runs", "Not a directory")):
        environment = dict(os.environ)
        done = run_module(tmp_path, "imdbcls.train", *TINY, "tracker=none", setting, environment=environment)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
