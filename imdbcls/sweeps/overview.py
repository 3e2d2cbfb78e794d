"""Decide what a sweep shows: each shared message once, and one line at the start and at the end of each run."""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Sequence

from imdbcls.printable import duration

MIN_SECONDS = 60.0  # between two lines within an epoch; also the shortest first epoch that gives each epoch a line
MAX_SECONDS = 300.0  # after this time without a line, the end of the next epoch has a line
# Modules whose messages describe the start or the end of one run. A sweep logs other lines instead.
START, END = "imdbcls.train", "imdbcls.training.closing"
PROGRESS, EPOCHS = "imdbcls.runtime.progress", "imdbcls.runtime.progress.epochs"
DIGEST_BYTES = 16


class SharedMessages:
    """The messages that a sweep has shown. The forked processes of its jobs share this record."""

    def __init__(self) -> None:
        # Opened for appending, so that the writes of several processes never overlap. It is open during the sweep.
        self._file = tempfile.TemporaryFile("ab+", buffering=0)  # noqa: SIM115

    def is_new(self, text: str) -> bool:
        """Return whether no process of the sweep has shown this text yet, and record the text as shown.

        Two jobs that log the same text at the same moment may both get True.
        """
        digest = hashlib.sha256(text.encode(errors="replace")).digest()[:DIGEST_BYTES]
        descriptor = self._file.fileno()
        known = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        if digest in (known[start : start + DIGEST_BYTES] for start in range(0, len(known), DIGEST_BYTES)):
            return False
        os.write(descriptor, digest)
        return True


class JobMessages:
    """Decide which messages of one job are shown on stderr. Trackers still record all messages.

    A text that several jobs log is shown once, unless it is an error. With `has_overview`, the sweep itself logs the
    start and the end of the run. All lines about epochs are then shown if the first epoch takes `MIN_SECONDS` or more.
    Otherwise, at most one of them is shown in `MAX_SECONDS`.
    """

    def __init__(self, shared: SharedMessages, has_overview: bool) -> None:
        self._shared = shared
        self._has_overview = has_overview
        self._shown_at = time.monotonic()
        self._has_long_epochs: bool | None = None  # None: the first epoch has not ended

    def __call__(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        if record.levelno < logging.WARNING and record.name in (START, END):
            return not self._has_overview
        if record.name in (PROGRESS, EPOCHS):
            return not self._has_overview or self._shows_progress(getattr(record, "epoch_seconds", None))
        return self._shared.is_new(record.getMessage())

    def _shows_progress(self, epoch_seconds: float | None) -> bool:
        """Return whether to show a line about a finished epoch that took `epoch_seconds`.

        If `epoch_seconds` is None, the line is about steps within an epoch.
        """
        now = time.monotonic()
        if epoch_seconds is None:
            is_shown = now - self._shown_at >= MIN_SECONDS
        elif self._has_long_epochs is None:
            is_shown = self._has_long_epochs = epoch_seconds >= MIN_SECONDS
            self._shown_at = now  # the time for loading does not count
        else:
            is_shown = self._has_long_epochs or now - self._shown_at >= MAX_SECONDS
        if is_shown:
            self._shown_at = now
        return is_shown


def label(number: int, num_expected: int) -> str:
    """Return the number of a run or trial and the expected number of all runs or trials as text, such as `[3/9]`."""
    return f"[{number}/{num_expected}]"


def end_line(label: str, name: str, detail: str, seconds: float, left: float | None) -> str:
    """Return the line for a run that has ended. `left` is the expected time until the sweep ends, in seconds."""
    parts = [f"{label} {name}", detail, duration(seconds)]
    return "  ".join([*parts, f"({duration(left)} left)"] if left is not None else parts)


def seconds_left(finished: Sequence[float], num_left: int, jobs: int) -> float | None:
    """Return the expected time in seconds until `num_left` more runs have ended, from the times of finished runs.

    Return None if no run has finished or if no runs are left.
    """
    return sum(finished) / len(finished) * num_left / jobs if finished and num_left > 0 else None
