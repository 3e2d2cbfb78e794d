"""Show the running jobs of a sweep as a live table on the terminal: one line per job, below the messages of all jobs.

The progress of a job is read from the `metrics.jsonl` of its run. The jobs write to a temporary file instead of stderr,
and this process writes their lines above the table. A pipe would stop the jobs when it is full, for example while this
process reads the documents of the next job.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.printable import duration, printable, printable_line
from imdbcls.runs.selection import as_text
from imdbcls.runtime import console

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

REPAINT_SECONDS = 1.0
MAX_READ_BYTES = 1 << 20
STDERR = 2  # file descriptor
# The start of a line that a job has logged as a warning or an error: the name of the run, and the label.
LABELS = ((re.compile(r"\S+: warning:"), "yellow"), (re.compile(r"\S+: imdbcls:"), "red"))
GAP = 2  # spaces between columns
SHORTEST_NAME = 8  # characters
# Columns that are left out on a narrow terminal, in this order: loss, time, epoch, score, percentage.
DROPPED = (3, 5, 1, 4, 2)


class RunProgress:
    """The progress of a run, read from its `metrics.jsonl`. The run may rewrite the file at any time."""

    def __init__(self, path: Path, epochs: int, metric: str) -> None:
        self._path = path
        self._epochs = epochs
        self._metric = metric
        self._position = 0  # number of bytes that have been read
        self._point: dict[str, Any] = {}  # the last value of each key

    def cells(self) -> tuple[str, str, str, str]:
        """Return the epoch, the percentage, the last training loss and the last validation score as text."""
        self._read()
        epoch, loss = self._point.get("epoch"), self._point.get("train/loss")
        score = self._point.get(f"val/{self._metric}")
        if not isinstance(epoch, int | float):
            return "starting", "", "", ""
        return (
            f"epoch {min(int(epoch) + 1, self._epochs)}/{self._epochs}",
            f"{100 * epoch / self._epochs:3.0f} %",
            f"loss {loss:.4f}" if isinstance(loss, int | float) else "",
            "" if score is None else f"val {as_text(self._metric, score)}",
        )

    def _read(self) -> None:
        """Read the lines that were added to the file since the last call."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._position:  # a resumed run has truncated the file
                    self._position, self._point = 0, {}
                file.seek(self._position)
                lines = file.read(MAX_READ_BYTES).splitlines(keepends=True)
        except OSError:  # there is no file yet
            return
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._position += len(line)
            try:
                self._point |= json.loads(line)
            except (ValueError, TypeError):
                continue


@dataclass(frozen=True)
class RunningJob:
    """A line of the table. `started` is a value of `time.monotonic`."""

    name: str
    progress: RunProgress
    started: float

    def cells(self) -> tuple[str, ...]:
        return (self.name, *self.progress.cells(), duration(time.monotonic() - self.started))


class LiveTable:
    """The table of the running jobs, and the file for their messages."""

    def __init__(self) -> None:
        # The jobs inherit this open file and share its position, so their writes never overlap. `pread` does not move
        # the position. The file stays open as long as the table exists.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._position = 0  # position of the first unread byte
        self._rest = b""  # the start of a line whose end is not in the file yet
        self._painted_at = 0.0

    def redirect_stderr(self) -> None:
        """Redirect stderr to the file. A job calls this in its own process."""
        os.dup2(self._file.fileno(), STDERR)
        self._file.close()

    def wait(self, seconds: float, jobs: Sequence[RunningJob]) -> None:
        """Wait for `seconds`, show new messages, and repaint the table if it is due."""
        time.sleep(seconds)
        self.relay()
        if time.monotonic() - self._painted_at >= REPAINT_SECONDS:
            self.paint(jobs)

    def paint(self, jobs: Sequence[RunningJob]) -> None:
        """Show the jobs that are running; with no jobs, remove the table."""
        self._painted_at = time.monotonic()
        if jobs:
            console.paint(JobLines([job.cells() for job in jobs]))
        else:
            console.erase()

    def relay(self) -> None:
        """Write the messages of the jobs above the table."""
        while part := os.pread(self._file.fileno(), 65536, self._position):
            self._rest += part
            self._position += len(part)
        *lines, self._rest = self._rest.split(b"\n")
        self._write(lines)

    def _write(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = printable(line.decode(errors="replace"))
            for pattern, style in LABELS:
                if label := pattern.match(text):
                    console.write_message(text[label.end() :].lstrip(), label.group(), style)
                    break
            else:
                console.write_message(text)

    def close(self) -> None:
        """Remove the table, and write the last message if it has no line end."""
        console.erase()
        self._write([self._rest] if self._rest else [])
        self._file.close()


class JobLines:
    """The lines of the live table. On a narrow terminal, columns are left out, and then names of jobs are shortened."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._rows = [[printable_line(cell) for cell in row] for row in rows]

    def __rich_console__(self, terminal: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        from rich.text import Text

        width = options.max_width - 3  # leave space for `^C`, which a terminal can show, so that the line does not wrap
        yield Text("\n".join(self.lines(width)), no_wrap=True, overflow="crop")

    def lines(self, width: int) -> list[str]:
        """Return one line of at most `width` characters per job."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        widths = [max(map(cell_len, column)) for column in zip(*self._rows, strict=True)]
        shown = [i for i, column_width in enumerate(widths) if column_width > 0]
        for dropped in DROPPED:
            if sum(widths[i] + GAP for i in shown if i > 0) + min(widths[0], SHORTEST_NAME) > width and len(shown) > 1:
                shown = [i for i in shown if i != dropped]
        widths[0] = max(min(widths[0], width - sum(widths[i] + GAP for i in shown if i > 0)), 1)
        lines = []
        for row in self._rows:
            name = Text(row[0])
            name.truncate(widths[0], overflow="ellipsis")
            cells = [name.plain, *row[1:]]
            lines.append((" " * GAP).join(set_cell_size(cells[i], widths[i]) for i in shown).rstrip())
        return lines
