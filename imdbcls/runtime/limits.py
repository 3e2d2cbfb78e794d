"""Detect errors caused by limits of the machine: memory, threads, open files, disk space and permissions."""

import errno
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imdbcls.errors import UserError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MIN_ADDRESS_SPACE = 10**9  # bytes

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
_BAD_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE, errno.ENXIO)
# Libraries in C++ and Rust (torch, pyarrow, safetensors, tokenizers) give the errno or its text only in the message.
_NUMBER_IN_TEXT = re.compile(r"(?:os error |\[?errno ?)(\d+)\b|code: (\d+),", re.IGNORECASE)
_NO_MEMORY_TEXT = re.compile(
    r"can.?t allocate memory|cannot allocate memory|not enough memory|out of memory|std::bad_alloc|bad allocation"
    r"|CU(BLAS|DNN)_STATUS_\w*ALLOC(ATION)?_FAILED|failed to map segment from shared object|malloc of size"
    r"|realloc of size|cannot allocate memory in static TLS block|unable to allocate",
    re.IGNORECASE,
)
_NO_THREADS_TEXT = re.compile(
    r"can't start new thread|thread creation failed|pthread_create|ThreadPoolBuildError|failed to spawn thread"
    r"|Resource temporarily unavailable",
    re.IGNORECASE,
)
_NO_FILES_TEXT = re.compile(r"too many open files", re.IGNORECASE)
# For each limit: a description, a function that formats its value, and the shell command that changes it.
_LIMITS: dict[str, tuple[str, Callable[[int], str], str]] = {
    "RLIMIT_AS": ("this process may address", lambda size: f"{size / 1e9:.1f} GB", "ulimit -v"),
    "RLIMIT_NOFILE": ("this process may open", lambda count: f"{count:,} files", "ulimit -n"),
    "RLIMIT_NPROC": ("this user may run", lambda count: f"{count:,} threads", "ulimit -u"),
}
_NO_TEMPORARY_TEXT = "No usable temporary directory found"
# Only the messages of these exceptions are searched. Other messages may contain the same words in a name or a label.
_LIBRARY_ERRORS = ("RuntimeError", "ImportError", "SafetensorError", "ArrowMemoryError", "ArrowException", "OSError")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted. Each library raises its own type of exception."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return errno_of(error) == errno.ENOMEM or (_comes_from_library(error) and bool(_NO_MEMORY_TEXT.search(str(error))))


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk is full, or that a quota or the file size limit was reached."""
    return errno_of(error) in _DISK_FULL


def is_out_of_files(error: BaseException) -> bool:
    """Return whether an error means that this process or the machine has too many open files."""
    return errno_of(error) in _NO_FILES or (_comes_from_library(error) and bool(_NO_FILES_TEXT.search(str(error))))


def is_out_of_threads(error: BaseException) -> bool:
    """Return whether an error means that a thread or process could not be started."""
    return errno_of(error) == errno.EAGAIN or (_comes_from_library(error) and bool(_NO_THREADS_TEXT.search(str(error))))


def errno_of(error: BaseException) -> int | None:
    """Return the errno of an error, or None. For library errors, the errno may be parsed from the message."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _NUMBER_IN_TEXT.search(str(error)) if _comes_from_library(error) else None
    return int(found[1] or found[2]) if found else None


def _comes_from_library(error: BaseException) -> bool:
    return any(kind.__name__ in (*_LIBRARY_ERRORS, "PanicException") for kind in type(error).__mro__)


@contextmanager
def explained() -> Iterator[None]:
    """Convert errors caused by a limit of the machine to UserError."""
    try:
        yield
    except BaseException as error:
        user_error = explain(error)
        if user_error is None:
            raise
        raise user_error from error


def explain(error: BaseException) -> UserError | None:
    """Return a UserError for an error caused by a limit of the machine, and None for any other error.

    The chain of `__cause__` is examined too, because libraries wrap the original error.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if isinstance(current, UserError | KeyboardInterrupt | SystemExit | GeneratorExit):
            return None
        message = _message(current)
        if message is not None:
            return UserError(message)
        seen.append(current)
        current = current.__cause__
    return None


def _message(error: BaseException) -> str | None:
    detail = " ".join(str(error).split())[:160] or type(error).__name__
    if is_disk_full(error):
        return (
            f"There is no space left to write ({detail}). Free some disk space, or raise the disk quota or the file "
            "size limit, and run the same command again; a training run resumes from its last checkpoint."
        )
    if is_out_of_memory(error):
        return (
            f"There is not enough memory ({detail}). Free some memory{_limits('RLIMIT_AS')}. For training, you can "
            "also reduce trainer.micro_batch_size or max_length (this starts a new run)."
        )
    if is_out_of_files(error):
        return f"Too many files are open ({detail}). Set jobs=1 or close other programs{_limits('RLIMIT_NOFILE')}."
    if is_out_of_threads(error):
        return (
            f"No more threads or processes can be started ({detail}). Set OMP_NUM_THREADS=1 and jobs=1"
            f"{_limits('RLIMIT_AS', 'RLIMIT_NPROC')}."
        )
    if _NO_TEMPORARY_TEXT in str(error):
        return "No folder for temporary files is writable. Set TMPDIR to a writable folder."
    filename = getattr(error, "filename", None)
    if isinstance(error, OSError) and isinstance(filename, str | bytes) and error.errno in (*_NO_ACCESS, *_BAD_PATH):
        path = filename.decode(errors="replace") if isinstance(filename, bytes) else filename
        return f"{_shortened(path)}: {error.strerror}. {_advice(error.errno)}"
    return None


def _advice(number: int) -> str:
    if number in _NO_ACCESS:
        return "Change its permissions, or choose another path (set runs_dir, IMDBCLS_CACHE, HF_HOME or TMPDIR)."
    if number == errno.ENAMETOOLONG:
        return "Use a shorter name."
    if number in (errno.EIO, errno.ESTALE, errno.ENXIO):
        return "The disk or the file server failed. Try again, or use another disk."
    return "Choose another path."


def _shortened(text: str, width: int = 120) -> str:
    return text if len(text) <= width else f"{text[: width // 2]}...{text[-width // 2 :]}"


def _limits(*names: str) -> str:
    """Return the advice to raise the named limits, as the end of a sentence. Return "" if no limit is set."""
    found = []
    for name in names:
        description, format_value, command = _LIMITS[name]
        limit = resource.getrlimit(getattr(resource, name))[0] if hasattr(resource, name) else -1
        if limit not in (-1, getattr(resource, "RLIM_INFINITY", -1)):
            found.append(f"{description} {format_value(limit)} ({command})")
    return f", or raise the limit: {' and '.join(found)}" if found else ""


def require_address_space() -> None:
    """Raise UserError if the address space is too small to import PyTorch, SciPy and Transformers.

    With a smaller address space, OpenBLAS hangs while it is loaded, and OpenMP aborts the process.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if hasattr(resource, "RLIMIT_AS") else -1
    if 0 <= limit < MIN_ADDRESS_SPACE:
        raise UserError(
            f"This process is limited to {limit / 1e9:.2f} GB of address space (ulimit -v), but importing "
            f"PyTorch, SciPy and Transformers needs about {MIN_ADDRESS_SPACE / 1e9:.0f} GB. Raise the limit: ulimit -v "
            "unlimited."
        )


def require_threads(count: int) -> None:
    """Raise UserError if this process cannot start `count` threads.

    Call this function before OpenMP starts its threads: if OpenMP cannot start a thread, it aborts the process.
    """
    release = threading.Event()
    threads = [threading.Thread(target=release.wait, daemon=True) for _ in range(count)]
    started = []
    try:
        with explained():
            for thread in threads:
                thread.start()
                started.append(thread)
    finally:
        release.set()
        for thread in started:
            with suppress(RuntimeError):
                thread.join()
