"""The command line of this process, for the record of a run."""

import shlex
import sys

MAX_LENGTH = 2_000  # characters; `python -c` may have a whole program as its argument


def command_line() -> str:
    """Return the command line as the user would type it, with quotes where the shell needs them.

    Environment variables are not part of it. The jobs of a sweep return the command line of the sweep.
    """
    text = shlex.join(sys.orig_argv)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"
