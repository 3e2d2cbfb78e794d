"""Run a command: set up its streams and logging, report its errors, and set its exit code.

Commands write their output to stdout and log to stderr. A write fails if the stream or its terminal is closed, if the
disk is full, or if the reader of a pipe has exited. A failed write to stderr is ignored. A failed write to stdout ends
the command. If the reader has closed the pipe (`| head`), the command ends silently with exit code 141, otherwise with
an error message and exit code 2.
"""

import codecs
import contextlib
import errno
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TextIO

from imdbcls.runtime import limits
from imdbcls.runtime.console import log_to_stderr, quiet_libraries, user_errors, write_message
from imdbcls.runtime.installation import require_one_installation

logger = logging.getLogger(__name__)

BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit code that a shell reports for a process killed by SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
FAILED = 2

# Replacements for characters that the encoding of a stream lacks. Other missing characters are escaped.
_SUBSTITUTES = str.maketrans(
    {
        "\u2013": "-",
        "\u2014": "-",
        "\u2500": "-",
        "\u00b1": "+-",
        "\u00b7": "*",
        "\u00d7": "x",
        "\u2026": "...",
        "\u2192": "->",
        "\u2264": "<=",
        "\u2265": ">=",
    }
)
_ERRORS = "imdbcls.substitute"


class StdoutLost(SystemExit):
    """A failed write to stdout. It is a SystemExit, so it ends the command even if a library catches `Exception`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class _Stderr(io.FileIO):
    """The raw stderr. Failed writes are ignored."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            _write(super().write, self.fileno(), data)
        return len(memoryview(data).cast("B"))


class _Stdout(io.FileIO):
    """The raw stdout. The first failed write sets `lost`. Failed writes raise `lost` unless errors are `deferred`."""

    lost: StdoutLost | None = None
    deferred = False

    def write(self, data: Any) -> int:
        try:
            return _write(super().write, self.fileno(), data)
        except OSError as error:
            if self.lost is None:
                self.lost = _stdout_lost(error)
                self._discard()
            if not self.deferred:
                raise self.lost from None
            return len(memoryview(data).cast("B"))

    def _discard(self) -> None:
        """Discard all further output, including buffered text and what libraries write directly to the descriptor."""
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


def _write(write: Callable[[Any], int | None], descriptor: int, data: Any) -> int:
    """Write data and return the number of bytes written. If a non-blocking descriptor is not ready, wait."""
    while True:
        count = write(data)
        if count is not None:
            return count
        select.select([], [descriptor], [])


def _stdout_lost(error: OSError) -> StdoutLost:
    if error.errno == errno.EPIPE:
        return StdoutLost(BROKEN_PIPE, "the reader of stdout has closed the pipe")
    reason = "stdout is closed" if error.errno == errno.EBADF else str(error.strerror)
    # Write the message directly instead of logging it, because the user's log handlers may write to stdout.
    message = f"Writing to stdout failed: {reason}. Redirect stdout to a writable file or pipe."
    write_message(message, "imdbcls:", "red")
    return StdoutLost(FAILED, f"writing to stdout failed: {reason}")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that an encoding lacks with similar characters or escapes.

    Surrogates that represent undecodable bytes, for example in a file name, become these bytes again.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = text.translate(_SUBSTITUTES)
    if plain != text:
        return plain.encode("ascii", "backslashreplace").decode(), error.end
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("ascii", "surrogateescape"), error.end
    return codecs.backslashreplace_errors(error)


def set_up_streams() -> None:
    """Replace the standard streams, configure logging and install the exception hook.

    The new streams handle failed writes as described in the module docstring. Call this function before heavy imports,
    so that libraries show no progress bars of their own. The hook also reports an import that fails because of a limit
    of the machine (memory, threads).
    """
    codecs.register_error(_ERRORS, _substitute)
    _open_closed()
    for name, raw_class in (("stdout", _Stdout), ("stderr", _Stderr)):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
        except (OSError, AttributeError):  # the stream is not a file, for example in a notebook
            continue
        if isinstance(getattr(stream.buffer, "raw", None), raw_class):
            continue
        stream.flush()
        replacement = io.TextIOWrapper(
            io.BufferedWriter(raw_class(descriptor, "w", closefd=False)),
            encoding=stream.encoding,
            errors=_ERRORS,
            newline="\n" if os.name == "posix" else None,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, replacement)
        setattr(sys, f"__{name}__", replacement)
    sys.excepthook = _explain
    quiet_libraries()
    with user_errors():
        log_to_stderr()


def _open_closed() -> None:
    """Open /dev/null for each standard descriptor that is closed.

    Otherwise the next opened file would get the descriptor's number, and C code would write its output to that file.
    stdin is opened for writing and stdout for reading, so that using them still fails.
    """
    for descriptor, (name, flags, mode) in enumerate(
        (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    ):
        if getattr(sys, name) is not None:
            continue
        with contextlib.suppress(OSError):
            try:
                os.fstat(descriptor)
            except OSError:
                opened = os.open(os.devnull, flags)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
                os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception (`sys.excepthook`), and exit.

    Log a message if a limit of the machine caused the exception, and a traceback otherwise.
    """
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED)
    with user_errors():
        user_error = limits.explain(error)
        if user_error is not None:
            raise user_error
    logger.critical("unexpected error", exc_info=(kind, error, trace))
    raise SystemExit(1)


def run(main: Callable[[], object]) -> NoReturn:
    """Run `main` and exit the process. `main` returns an exit code, or None for 0."""
    set_up_streams()
    code: object = None
    try:
        with user_errors():
            require_one_installation()
            code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as exit_:
        code = exit_.code
    if isinstance(code, str):
        logger.error(code)
        code = 1
    lost = flush()
    if lost is not None and code in (None, 0):
        code = lost.code
    sys.exit(code if isinstance(code, int) else 0)


def takes_unicode(file: TextIO) -> bool:
    """Return whether the encoding of a text stream can represent every character."""
    return (file.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def flush() -> StdoutLost | None:
    """Flush stdout and stderr. Return the error if a write to stdout failed, else None."""
    try:
        sys.stdout.flush()
    except StdoutLost as lost:
        return lost
    except (OSError, ValueError, AttributeError):  # a stream that `set_up_streams` did not replace
        return None
    finally:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
    raw = _raw_stdout()
    return raw.lost if raw is not None else None


@contextlib.contextmanager
def stdout_is_secondary() -> Iterator[None]:
    """Ignore failed writes to stdout in the block, because the block writes its results to files.

    `run` still exits with the code for the failed write, even if everything else succeeded.
    """
    raw = _raw_stdout()
    if raw is None or raw.deferred:
        yield
        return
    raw.deferred = True
    try:
        yield
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    finally:
        raw.deferred = False


def _raw_stdout() -> _Stdout | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Stdout) else None
