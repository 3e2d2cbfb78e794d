"""The command line of this process, for the record of a run."""

import shlex
import sys
from collections.abc import Sequence
from multiprocessing import parent_process
from pathlib import Path

SCRIPT = "imdbcls"  # the console script
MAX_LENGTH = 2_000  # characters; `python -c` may have a whole program as its argument


def command_line() -> str:
    """Return the command line as the user would type it, with quotes where the shell needs them.

    Environment variables are not included. In the jobs of a sweep, return the command line of the sweep.
    """
    # A worker of multiprocessing has a command line of its own, but gets `sys.argv` from its parent.
    text = shlex.join(as_typed(sys.orig_argv) if parent_process() is None else sys.argv)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def as_typed(arguments: Sequence[str]) -> list[str]:
    """Replace the interpreter and the path of the console script with `imdbcls`; return other commands unchanged."""
    is_script = len(arguments) > 1 and Path(arguments[1]).name == SCRIPT
    return [SCRIPT, *arguments[2:]] if is_script else list(arguments)
