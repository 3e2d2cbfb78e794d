"""Show the messages of a run in one output of a Jupyter cell, which is updated in place."""

import html
import io
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100  # characters of the live line
SECONDS_BETWEEN_UPDATES = 0.5  # each update sends the complete block to the browser


def in_notebook() -> bool:
    """Return whether the code runs in a Jupyter kernel. IPython is not imported for this."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class NotebookBlock:
    """One output of the current cell: messages, and below them a live line."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._live = ""
        self._display: Any = None  # a handle of IPython; None: nothing was shown yet
        self._updated_at = 0.0

    def write(self, lines: list[str]) -> None:
        """Add lines below the earlier lines."""
        self._lines += lines
        self.update()

    def paint(self, line: "RenderableType") -> None:
        """Replace the live line. It is shown only below messages, so a run that logs no messages adds no output."""
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=WIDTH, color_system=None, force_jupyter=False, legacy_windows=False).print(line)
        self._live = file.getvalue().rstrip()
        if self._lines and time.monotonic() - self._updated_at >= SECONDS_BETWEEN_UPDATES:
            self.update()

    def erase(self) -> None:
        """Remove the live line. The next message or `close` updates the output."""
        self._live = ""

    def close(self) -> None:
        """Show the messages without a live line."""
        self.erase()
        if self._display is not None:
            self.update()

    def update(self) -> None:
        from IPython.display import display

        text = "\n".join([*self._lines, *([self._live] if self._live else [])])
        shown = {
            "text/plain": text,
            "text/html": f'<pre style="white-space: pre-wrap; margin: 0">{html.escape(text)}</pre>',
        }
        if self._display is None:
            self._display = display(shown, raw=True, display_id=True)
        else:
            self._display.update(shown, raw=True)
        self._updated_at = time.monotonic()
