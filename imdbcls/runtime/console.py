"""What reaches the screen: our own lines, which never garble the live progress line, and little of the libraries'.

All of it goes to stderr; stdout stays free for what a program may want to read (``--cfg job``, predictions).
"""

import contextlib
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import printable, printable_line
from imdbcls.runtime import limits

# A library reads its variable when it is imported.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
}

_live = ""
_speaker = ""


def speak_as(name: str) -> None:
    """Begins each further line with a name: other processes write to the same screen, and nothing is repainted."""
    global _speaker
    _speaker = name


def is_shared() -> bool:
    """Whether other processes write to the same screen."""
    return bool(_speaker)


def say(text: str, label: str = "") -> None:
    """Prints one line, or several at once; a live line, if there is one, moves below. Each begins as `speak_as` has it.

    Control characters in `text` are escaped; `label`, which goes before it, may hold the colours of `coloured`.

    A log on a full disk is no reason to end, nor is a signal's line that comes while another is being written.
    """
    global _live
    live, _live = _live, ""
    text = label + printable(text)
    if _speaker:
        lines = (line if line.startswith(_speaker) else f"{_speaker}: {line}" for line in text.splitlines())
        text = "\n".join(lines)
    _write(f"\r\x1b[K{text}\n" if live else f"{text}\n")
    if live:
        paint(live)


def _write(text: str) -> None:
    """Write to stderr, if it is there and takes it: neither a closed stderr nor a full disk ends a training."""
    # RuntimeError: a reentrant call. ValueError: a closed file.
    with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one sentence and exit code 2 after a user's mistake or at a limit of the machine."""
    try:
        yield
    except BaseException as error:
        sentence = error if isinstance(error, UserError) else limits.explain(error)
        if sentence is None:
            raise
        say(f"imdbcls: {sentence}")
        sys.exit(2)


def warn(text: str) -> None:
    """Prints one line that something was ignored or changed on the user's behalf."""
    say(printable_line(text), label=f"{coloured('warning:', '33')} ")


def write_out(text: str) -> None:
    """Write an answer of one or more lines to stdout; control characters are escaped as in `say`."""
    print(printable(text), flush=True)


def guard_terminal() -> None:
    """Also escape control characters in libraries' log messages and in tracebacks; called where a command starts."""
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "is_guard", False):
        return

    def make_printable_record(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make_record(*arguments, **named)
        with contextlib.suppress(
            TypeError, ValueError
        ):  # arguments that do not match the message: logging reports that itself
            record.msg, record.args = printable(record.getMessage()), None
        return record

    make_printable_record.is_guard = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_printable_record)
    sys.excepthook = lambda kind, error, trace: say("".join(traceback.format_exception(kind, error, trace)).rstrip())
    warnings.showwarning = lambda message, category, file, line, *_: say(
        f"{file}:{line}: {category.__name__}: {message}"
    )


def paint(text: str) -> None:
    """Replaces the live line; an empty text removes it. Only for a terminal that is not shared."""
    global _live
    if text or _live:
        _live = printable_line(text)[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be repainted
        _write(f"\r{_live}\x1b[K")


def is_terminal() -> bool:
    """Whether stderr can repaint a line."""
    if is_shared() or os.environ.get("TERM") == "dumb":
        return False
    with contextlib.suppress(ValueError, AttributeError):  # stderr is closed
        return sys.stderr.isatty()
    return False


def coloured(text: str, code: str) -> str:
    """The text in an ANSI colour on a terminal, as it is elsewhere and under NO_COLOR (https://no-color.org)."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal() and not os.environ.get("NO_COLOR") else text


def quiet_libraries() -> None:
    """Silences the warnings and bars of transformers, datasets, huggingface_hub and torch; call it before their import.

    Their errors and our own warnings stay, and a variable that the user has set wins. On a terminal, a bar that takes
    longer than five seconds is shown after all: it may be the download of a model.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if is_terminal():
        os.environ.setdefault("TQDM_DELAY", "5")
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(transformers|datasets|huggingface_hub|torch)\b")
