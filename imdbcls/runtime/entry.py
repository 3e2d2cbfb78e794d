"""What every command does around its work: its streams, the limits of the machine, and its exit code.

Commands answer on stdout and log to stderr. Either can be closed, full, a pipe that nobody reads, or a terminal that
is gone. A failed write to stderr is dropped: it never ends a command. A failed write to stdout ends the command:
silently with exit code 141 where the reader has left (`| head`), else with one sentence and exit code 2.
"""

import codecs
import contextlib
import errno
import io
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TextIO

from imdbcls.runtime import limits
from imdbcls.runtime.console import guard_terminal, say, user_errors
from imdbcls.runtime.installation import require_one_installation

READER_LEFT = 128 + signal.SIGPIPE  # as a shell reports a process that SIGPIPE ended
INTERRUPTED = 128 + signal.SIGINT
FAILED = 2

# What the figures and rules of our tables become where the encoding lacks them; other characters become escapes.
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
    """Stdout cannot be written any more; ends the command even if a library swallows exceptions."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class _Stderr(io.FileIO):
    """The raw stderr. What it does not take is dropped."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            _write(super().write, self.fileno(), data)
        return len(memoryview(data).cast("B"))


class _Stdout(io.FileIO):
    """The raw stdout. The first failed write raises `StdoutLost`, or is remembered while it is `deferred`."""

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
        """Discard all further output: what is still buffered, and what libraries write to the descriptor."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _write(write: Callable[[Any], int | None], descriptor: int, data: Any) -> int:
    """Write some of the data, and wait where the descriptor was set not to block."""
    while True:
        count = write(data)
        if count is not None:
            return count
        select.select([], [descriptor], [])


def _lost(error: OSError) -> StdoutLost:
    if error.errno == errno.EPIPE:
        return StdoutLost(READER_LEFT, "the reader of stdout has left")
    reason = "it is closed" if error.errno == errno.EBADF else str(error.strerror)
    say(f"imdbcls: stdout cannot be written: {reason}. Redirect it to a file or pipe that can be written.")
    return StdoutLost(FAILED, f"stdout cannot be written: {reason}")


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    """Python's handler for what an encoding lacks: a look-alike, the byte that a name held, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = text.translate(_SUBSTITUTES)
    if plain != text:
        return plain.encode("ascii", "backslashreplace").decode(), error.end
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("ascii", "surrogateescape"), error.end
    return codecs.backslashreplace_errors(error)


def take_over() -> None:
    """Replace stdin, stdout and stderr by streams that fail as described above, and report errors in one sentence.

    Call it before heavy imports: a limit of the machine can already stop those.
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
    guard_terminal()
    sys.excepthook = _explain


def _open_closed() -> None:
    """Open closed standard descriptors: otherwise the next opened file gets the number, and the output of C code.

    Reading from stdin and writing to stdout then fail, as they should.
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
    """`sys.excepthook`: what the user or the machine caused is one sentence; the rest is a bug, with its traceback."""
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED)
    with user_errors():
        sentence = limits.explain(error)
        if sentence is not None:
            raise sentence
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())
    raise SystemExit(1)


def run(main: Callable[[], object]) -> NoReturn:
    """Run a command and end the process; `main` returns its exit code, or None for 0."""
    take_over()
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
        say(code)
        code = 1
    lost = flush()
    if lost is not None and code in (None, 0):
        code = lost.code
    sys.exit(code if isinstance(code, int) else 0)


def takes_unicode(file: TextIO) -> bool:
    """Whether a text file can hold every character."""
    return (file.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def flush() -> StdoutLost | None:
    """Write what is buffered; returns why stdout did not take all that it was given, if so."""
    try:
        sys.stdout.flush()
    except StdoutLost as lost:
        return lost
    except (OSError, ValueError, AttributeError):  # a stream that `take_over` did not replace
        return None
    finally:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
    raw = _raw_stdout()
    return raw.lost if raw is not None else None


@contextlib.contextmanager
def stdout_is_secondary() -> Iterator[None]:
    """Within, a lost stdout ends nothing and only sets the exit code at the end: the work is recorded elsewhere."""
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
