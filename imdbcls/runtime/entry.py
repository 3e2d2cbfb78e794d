"""Run a command: set its streams and logging up, explain its errors, and set its exit code.

Commands answer on stdout and log to stderr. Either can be closed, full, a pipe without a reader, or a terminal that
is gone. A failed write to stderr is dropped: it never ends a command. A failed write to stdout ends the command:
silently with exit code 141 if the reader has left (`| head`), else with one sentence and exit code 2.
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
from imdbcls.runtime.console import log_to_stderr, user_errors, write_message
from imdbcls.runtime.installation import require_one_installation

logger = logging.getLogger(__name__)

READER_LEFT = 128 + signal.SIGPIPE  # as a shell reports a process that SIGPIPE ended
INTERRUPTED = 128 + signal.SIGINT
FAILED = 2

# Replacements for characters that the encoding does not have; other characters are escaped.
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
    """Stdout cannot be written any more. As a SystemExit, it ends the command even if a library swallows exceptions."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class _Stderr(io.FileIO):
    """The raw stderr: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            _write(super().write, self.fileno(), data)
        return len(memoryview(data).cast("B"))


class _Stdout(io.FileIO):
    """The raw stdout: the first failed write raises `StdoutLost`, or sets `lost` if that is `deferred`."""

    lost: StdoutLost | None = None
    deferred = False

    def write(self, data: Any) -> int:
        try:
            return _write(super().write, self.fileno(), data)
        except OSError as error:
            if self.lost is None:
                self.lost = _lost(error)
                self._discard()
            if not self.deferred:
                raise self.lost from None
            return len(memoryview(data).cast("B"))

    def _discard(self) -> None:
        """Discard all further output: buffered text, and what libraries write to the descriptor."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _write(write: Callable[[Any], int | None], descriptor: int, data: Any) -> int:
    """Write some of the data and return the count of bytes; wait if the descriptor is non-blocking and full."""
    while True:
        count = write(data)
        if count is not None:
            return count
        select.select([], [descriptor], [])


def _lost(error: OSError) -> StdoutLost:
    if error.errno == errno.EPIPE:
        return StdoutLost(READER_LEFT, "the reader of stdout has left")
    reason = "it is closed" if error.errno == errno.EBADF else str(error.strerror)
    # Not logged: a handler of the user's may write to stdout.
    sentence = f"stdout cannot be written: {reason}. Redirect it to a file or pipe that can be written."
    write_message(sentence, "imdbcls:", "red")
    return StdoutLost(FAILED, f"stdout cannot be written: {reason}")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle characters that an encoding does not have: a look-alike, the raw byte of a file name, or an escape."""
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
    """Replace the standard streams by ones that fail as described above, set logging up, and explain errors.

    Call it before heavy imports: a limit of the machine can already make those fail.
    """
    codecs.register_error(_ERRORS, _substitute)
    _open_closed()
    for name, raw_class in (("stdout", _Stdout), ("stderr", _Stderr)):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
        except (OSError, AttributeError):  # not a file, such as in a notebook
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
    with user_errors():
        log_to_stderr()


def _open_closed() -> None:
    """Open closed standard descriptors: otherwise the next file gets the number, and with it the output of C code.

    Reading from a closed stdin and writing to a closed stdout still fail.
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
    """Log an uncaught exception (`sys.excepthook`): a sentence, or a traceback if it is a bug."""
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED)
    with user_errors():
        sentence = limits.explain(error)
        if sentence is not None:
            raise sentence
    logger.critical("unexpected error", exc_info=(kind, error, trace))
    raise SystemExit(1)


def run(main: Callable[[], object]) -> NoReturn:
    """Run `main`, which returns an exit code or None for 0, and end the process."""
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
    """Return whether the encoding of a text file has every character."""
    return (file.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def flush() -> StdoutLost | None:
    """Flush stdout and stderr; return the error if stdout has lost output, else None."""
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
    """Defer the error of a lost stdout to the exit code: the work in the block is recorded in files."""
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
