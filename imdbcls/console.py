"""Lines for the person at the terminal, on stderr, that never garble the live progress line.

stdout stays free for what a program may want to read (``--cfg job``, predictions).
"""

import os
import shutil
import sys

_live = ""


def say(text: str) -> None:
    """Prints one line; a live line, if there is one, moves below it."""
    global _live
    live, _live = _live, ""
    if live:
        sys.stderr.write("\r\x1b[K")
    sys.stderr.write(text + "\n")
    if live:
        paint(live)
    sys.stderr.flush()


def warn(text: str) -> None:
    """Prints one line that something was ignored or changed on the user's behalf."""
    say(f"{coloured('warning:', '33')} {text}")


def paint(text: str) -> None:
    """Replaces the live line; an empty text removes it. Only for a terminal."""
    global _live
    if text or _live:
        _live = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be repainted
        sys.stderr.write(f"\r{_live}\x1b[K")
        sys.stderr.flush()


def is_terminal() -> bool:
    """Whether stderr can repaint a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, code: str) -> str:
    """The text in an ANSI colour on a terminal, as it is elsewhere and under NO_COLOR (https://no-color.org)."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal() and not os.environ.get("NO_COLOR") else text
