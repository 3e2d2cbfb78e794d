"""Show the progress of `imdbcls.predict`: a live line with a bar on a terminal, and occasional log lines elsewhere."""

import logging
import time
from collections.abc import Callable

from imdbcls.printable import duration
from imdbcls.runtime import console
from imdbcls.runtime.progress import MAX_PLAIN_SECONDS, MIN_PLAIN_SECONDS, REPAINT_SECONDS, ProgressLine

logger = logging.getLogger(__name__)


class RowProgress:
    """Progress through the rows of a file or stream, shown on stderr.

    `last_number` is the number of the last row. If it is None, the bar and the remaining time are not shown. An earlier
    process has answered `num_done` rows, up to the row with the number `number`. Nothing is shown if `shows` is false.
    """

    def __init__(self, last_number: int | None, num_done: int = 0, number: int = 0, *, shows: bool = True) -> None:
        self._shows = shows
        self._live = console.shows_live() and console.shows_messages()
        self._last_number = last_number
        self._num_done, self._number = num_done, number
        self._first_row, self._first_number = num_done, number
        self._logged_number = number
        self._started = self._shown_at = self._logged_at = time.monotonic()

    def chunk(self, num_rows: int, number: int) -> Callable[[int, int], None]:
        """Return a callback `(done, total)` for the next `num_rows` rows. The last of them has the number `number`."""
        before, first = self._num_done, self._number
        self._num_done, self._number = before + num_rows, number

        def on_progress(done: int, total: int) -> None:
            share = done / total
            self._show(before + round(share * num_rows), first + round(share * (number - first)))

        return on_progress

    def erase(self) -> None:
        """Remove the live line, until the next progress is shown."""
        if self._live:
            console.erase()

    def _show(self, num_done: int, number: int) -> None:
        now = time.monotonic()
        if not self._shows:
            return
        if self._live and now - self._shown_at >= REPAINT_SECONDS:
            self._shown_at = now
            console.paint(ProgressLine(self._line(num_done, number, now), number, self._last_number))
        silence = now - self._logged_at
        tenth = self._last_number is not None and (number - self._logged_number) * 10 >= self._last_number
        if not self._live and ((tenth and silence >= MIN_PLAIN_SECONDS) or silence >= MAX_PLAIN_SECONDS):
            self._logged_at, self._logged_number = now, number
            logger.info(self._line(num_done, number, now))

    def _line(self, num_done: int, number: int, now: float) -> str:
        seconds = now - self._started
        parts = [f"classified {num_done:,} rows", f"{(num_done - self._first_row) / seconds:,.0f} rows/s"]
        if self._last_number is not None and number > self._first_number:
            left = seconds * (self._last_number - number) / (number - self._first_number)
            parts += [f"{min(number / self._last_number, 1):.0%}", f"{duration(max(left, 0))} left"]
        return "  ".join(parts)
