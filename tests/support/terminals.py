"""Run a command on a terminal of a given width."""

import os
import pty
import subprocess
from collections.abc import Sequence


def on_terminal(command: Sequence[str], columns: int, **environment: str) -> str:
    """Return what the command writes to the terminal, with its control sequences."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **environment}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # on Linux, this means that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, output
    return output.decode()
