"""The command line of this process, for the record of a run."""

import shlex
import sys
from multiprocessing import parent_process

MAX_LENGTH = 2_000  # characters; `python -c` may have a whole program as its argument


def command_line() -> str:
    """Return the command line as the user would type it, with quotes where the shell needs them.

    Environment variables are not part of it. The jobs of a sweep return the command line of the sweep.
    """
    # A worker of multiprocessing has a command line of its own, but gets `sys.argv` from its parent.
    text = shlex.join(sys.orig_argv if parent_process() is None else sys.argv)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"
