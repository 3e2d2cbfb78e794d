"""Write log messages to stderr above a live progress line or table, and silence the libraries.

Modules log with `logging.getLogger(__name__)`. Commands call `log_to_stderr`, which adds one handler to the root
logger. `hydra/job_logging=...` replaces the handlers of the root logger, so no message appears twice. Python callers
configure logging as usual; `imdbcls.run` calls `log_if_unconfigured`. In a Jupyter notebook, `in_one_output` collects
all messages of a run in one output of the cell. Stdout is reserved for the output of a command (`--cfg job`,
predictions).
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TextIO, cast

from imdbcls.errors import UserError
from imdbcls.printable import printable, printable_line
from imdbcls.runtime import limits

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from imdbcls.runtime.notebook import NotebookBlock

logger = logging.getLogger(__name__)

LEVEL_VARIABLE = "IMDBCLS_LOG_LEVEL"
PACKAGE = "imdbcls"
RECORDER = "imdbcls.messages"  # name of the handler that records messages for trackers and shows nothing
SHOWN = (PACKAGE, "hydra", "hydra_plugins")  # packages whose messages below WARNING are shown, too

# Each library reads its variables on import.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}

# The argument `extra` of a log call whose message is shown in bold on a terminal.
BOLD = {"imdbcls_style": "bold"}

_DUMB_TERMS = ("dumb", "unknown")  # values of TERM for terminals that cannot repaint a line

_prefix = ""
_is_wanted: Callable[[logging.LogRecord], bool] | None = None
_caption = ""
_live: "Live | None" = None
_block: "NotebookBlock | None" = None


class StderrHandler(logging.Handler):
    """A handler that writes log records to the current stderr. Failed writes are ignored.

    Warnings of imdbcls start with `warning:` and errors with `imdbcls:`. Control characters are escaped. On a terminal,
    lines are wrapped at spaces, except the lines of a traceback. Messages below WARNING from libraries other than Hydra
    are shown only if the root level is DEBUG (`hydra.verbose=true`). Signal handlers can log, too.
    """

    def filter(self, record: logging.LogRecord) -> Any:
        wanted = _is_wanted is None or logging.getLogger().level <= logging.DEBUG or _is_wanted(record)
        return is_shown(record) and wanted and super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            label, style = label_of(record)
            style = style or getattr(record, "imdbcls_style", "")
            text = self.format(record)
            text = printable_line(text) if label == "warning:" else printable(text)
            write_message(text, label, style, wraps=not record.exc_info)
        except Exception:
            self.handleError(record)


def is_shown(record: logging.LogRecord) -> bool:
    """Return whether to show a log record.

    All records of imdbcls and Hydra are shown. Records of other packages are shown if their level is at least WARNING,
    or if the root level is DEBUG.
    """
    is_own = record.name.partition(".")[0] in SHOWN
    return is_own or record.levelno >= logging.WARNING or logging.getLogger().level <= logging.DEBUG


def label_of(record: logging.LogRecord) -> tuple[str, str]:
    """Return the label of a log record (`warning:` or `imdbcls:`) and the label's style on a terminal.

    Both are empty for records below WARNING and for records of other packages.
    """
    if record.name.partition(".")[0] != PACKAGE or record.levelno < logging.WARNING:
        return "", ""
    return ("warning:", "yellow") if record.levelno < logging.ERROR else ("imdbcls:", "red")


def write_message(text: str, label: str = "", style: str = "", *, wraps: bool = True) -> None:
    """Write a label and a message of one or more lines to stderr, above the live line if one is shown.

    On a terminal, the label has the given style; without a label, the whole message has this style. With `wraps`, lines
    are wrapped at spaces to the width of the terminal.
    """
    if _prefix and label:
        text = text.removeprefix(f"{_prefix}: ")
    lines = f"{label} {text}".splitlines() if label else text.splitlines() or [""]
    if _prefix:
        lines = [line if line.startswith(_prefix) else f"{_prefix}: {line}" for line in lines]
    if _block is not None:
        _block.write(lines)
        return
    if _live is None and not is_terminal():  # write to files and pipes directly, because rich expands tabs
        stderr.write("\n".join([*lines, ""]))
        stderr.flush()
        return
    from rich.text import Text

    columns = columns_of(sys.stderr)
    message = Text("\n".join(lines if columns is None or not wraps else map(partial(wrapped_line, columns), lines)))
    message.tab_size = 8
    message.stylize(style, 0, len(label) or None)
    terminal().print(message, soft_wrap=True)


def wrapped_line(columns: int, line: str) -> str:
    """Wrap a line of a message to the width of a terminal. Indent continuation lines by two more spaces."""
    from rich.cells import cell_len

    from imdbcls.runtime.text_table import wrapped

    if cell_len(line.expandtabs()) <= columns:
        return line
    text = line.lstrip(" ")
    start = " " * (len(line) - len(text))
    return wrapped(text, columns, start, indent=f"{start}  ")


class Stderr:
    """A file object that writes to the current `sys.stderr` and never raises.

    `sys.stderr` may be closed, may be a file on a full disk, or may be replaced later (by pytest or a notebook).
    """

    def write(self, text: str) -> int:
        try:
            sys.stderr.write(text)
        except RuntimeError:  # called in a signal handler that interrupted another write: bypass the buffer
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.write(sys.stderr.fileno(), text.encode(self.encoding, "backslashreplace"))
        except (OSError, ValueError, AttributeError):  # ValueError: a closed file
            pass
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return sys.stderr.isatty()
        return False

    @property
    def encoding(self) -> str:
        return getattr(sys.stderr, "encoding", None) or "utf-8"


stderr = cast(TextIO, Stderr())


@cache
def terminal() -> "Console":
    """Return the rich console on stderr. Messages and the live line share it, so neither overwrites the other."""
    from rich.console import Console

    return Console(file=stderr, force_terminal=True, force_jupyter=False, highlight=False, markup=False, emoji=False)


def is_terminal() -> bool:
    """Return whether stderr is a terminal that can repaint a line and that only this process writes to."""
    return can_repaint() and stderr.isatty()


def shows_live() -> bool:
    """Return whether `paint` can be called: on a terminal, or in a notebook within `in_one_output`."""
    return _block is not None or is_terminal()


def can_repaint() -> bool:
    """Return whether repainting a line is possible: stderr is not shared with other processes, and TERM is not dumb."""
    return not _prefix and os.environ.get("TERM") not in _DUMB_TERMS


def paint(line: "RenderableType") -> None:
    """Show a live line or table below the messages and the caption, in place of the previous line or table."""
    global _live
    if _caption:
        from rich.console import Group
        from rich.text import Text

        line = Group(Text(_caption, no_wrap=True, overflow="ellipsis"), line)
    if _block is not None:
        _block.paint(line)
        return
    if _live is not None:
        _live.update(line, refresh=True)
        return
    from rich.live import Live

    _live = Live(
        line,
        console=terminal(),
        auto_refresh=False,  # a refresh thread would compete with the computation for a core
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    _live.start(refresh=True)
    terminal().show_cursor(True)  # rich hides the cursor, and a killed process could not show it again


def caption(text: str) -> None:
    """Show a line above each later live line."""
    global _caption
    from rich.text import Text

    _caption = printable_line(text)
    paint(Text("starting"))


def erase() -> None:
    """Remove the live line or table, if one is shown."""
    global _live
    if _block is not None:
        _block.erase()
        return
    live, _live = _live, None
    if live is not None:
        live.stop()


@contextlib.contextmanager
def in_one_output() -> Iterator[None]:
    """In a Jupyter notebook, show all messages and the live line in one output of the cell. Elsewhere, do nothing."""
    from imdbcls.runtime.notebook import NotebookBlock, in_notebook

    global _block
    if _block is not None or not in_notebook():
        yield
        return
    _block = NotebookBlock()
    try:
        yield
    finally:
        block, _block = _block, None
        block.close()


USUAL_COLUMNS = 80  # assumed for a terminal that reports the width 0


def columns_of(stream: TextIO) -> int | None:
    """Return the width of a stream's terminal in characters. Return None for a dumb terminal and for other streams."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream.isatty() and os.environ.get("TERM") not in _DUMB_TERMS:
            columns = os.environ.get("COLUMNS", "")
            known = int(columns) if columns.isdecimal() else os.get_terminal_size(stream.fileno()).columns
            return known or USUAL_COLUMNS
    return None


def shows_messages() -> bool:
    """Return whether a `StderrHandler` is installed. Any other handler would write into the live line."""
    handlers = [*logging.getLogger(PACKAGE).handlers, *logging.getLogger().handlers]
    return any(isinstance(handler, StderrHandler) for handler in handlers)


def show_only(is_wanted: Callable[[logging.LogRecord], bool]) -> None:
    """Show only the messages for which `is_wanted` returns True, unless the root level is DEBUG."""
    global _is_wanted
    _is_wanted = is_wanted


def prefix_messages(name: str) -> None:
    """Start each later line with `name`, and show no live line, because other processes write to the same stderr."""
    global _prefix
    _prefix = name


def log_to_stderr() -> None:
    """Configure logging for a command: write all messages and tracebacks to stderr, and escape control characters.

    The variable `IMDBCLS_LOG_LEVEL` sets the level of messages of imdbcls. The default is the level of the root
    logger: INFO, or DEBUG with `hydra.verbose=true`. Raise UserError if the variable does not name a level.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, StderrHandler) for handler in root.handlers):
        root.addHandler(StderrHandler())
    root.setLevel(logging.INFO)
    escape_control_characters()
    warnings.showwarning = lambda message, category, file, line, *_: logging.getLogger("py.warnings").warning(
        "%s:%s: %s: %s", file, line, category.__name__, message
    )
    level = os.environ.get(LEVEL_VARIABLE, "").upper()
    if level:
        names = logging.getLevelNamesMapping()
        if level not in names:
            raise UserError(f"{LEVEL_VARIABLE}={level} is not a log level: use DEBUG, INFO, WARNING or ERROR.")
        logging.getLogger(PACKAGE).setLevel(level)


def log_if_unconfigured() -> None:
    """Write the messages of imdbcls to stderr if logging is not configured.

    By default, logging is not configured in a notebook and in the worker processes of a Hydra launcher. If a handler is
    added to the root logger later, only that handler is used.
    """
    package = logging.getLogger(PACKAGE)
    if package.hasHandlers():
        return
    handler = StderrHandler()
    handler.addFilter(lambda _: all(other.name == RECORDER for other in logging.getLogger().handlers))
    package.addHandler(handler)
    if package.level == logging.NOTSET and logging.getLogger().level == logging.WARNING:  # both are defaults
        package.setLevel(logging.INFO)


def escape_control_characters() -> None:
    """Escape control characters in all log records, because some libraries add their own handlers."""
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "escapes", False):
        return

    def make_printable_record(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make_record(*arguments, **named)
        # `getMessage` raises if the arguments do not match the message; logging reports that later.
        with contextlib.suppress(TypeError, ValueError):
            record.msg, record.args = printable(record.getMessage()), None
        return record

    make_printable_record.escapes = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_printable_record)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Log a UserError, or an error caused by a limit of the machine, without a traceback, and exit with code 2."""
    try:
        yield
    except BaseException as error:
        user_error = error if isinstance(error, UserError) else limits.explain(error)
        if user_error is None:
            raise
        logger.error(str(user_error))
        sys.exit(2)


def write_out(text: str, styles: Mapping[str, str] | None = None) -> None:
    """Write output of one or more lines to stdout, with control characters escaped.

    `styles` maps regular expressions to the rich styles of their matches on a terminal. Files, pipes, and a terminal
    with NO_COLOR get plain text.
    """
    if not styles or columns_of(sys.stdout) is None or os.environ.get("NO_COLOR"):
        print(printable(text), flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    message = Text(printable(text), tab_size=8)
    for pattern, style in styles.items():
        message.highlight_regex(pattern, style)
    Console(force_terminal=True, force_jupyter=False, highlight=False, markup=False, emoji=False).print(
        message, soft_wrap=True
    )
    sys.stdout.flush()


def quiet_libraries() -> None:
    """Silence the warnings and progress bars of transformers, datasets, huggingface_hub and torch.

    Call this function before the libraries are imported. Their errors are still shown, and environment variables that
    the user has set are not changed. On a terminal, a download that takes longer than five seconds still shows a
    progress bar.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if is_terminal():
        os.environ.setdefault("TQDM_DELAY", "5")
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # In a notebook without ipywidgets, tqdm warns that it shows plain progress bars, but they are disabled above.
    warnings.filterwarnings("ignore", message="IProgress not found")
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(transformers|datasets|huggingface_hub|torch)\b")
