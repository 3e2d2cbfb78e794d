"""What a sweep shows: the messages that all runs share once, and one line at the start and at the end of each run."""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Sequence

from imdbcls.printable import duration

SECONDS_BETWEEN_EPOCHS = 60.0  # a job logs its progress at most this often
# Modules whose messages describe the start or the end of one run. The sweep logs a line of its own instead.
START, END, PROGRESS = "imdbcls.train", "imdbcls.training.closing", "imdbcls.runtime.progress"
DIGEST_BYTES = 16


class SharedMessages:
    """The messages that a sweep has shown. The forked processes of its jobs share this record."""

    def __init__(self) -> None:
        # Opened for appending, so that the writes of several processes never overlap. It is open as long as the sweep.
        self._file = tempfile.TemporaryFile("ab+", buffering=0)  # noqa: SIM115

    def is_new(self, text: str) -> bool:
        """Return whether no process of the sweep has shown this text yet, and remember it.

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
    """Decide which messages of one job are shown on stderr. Trackers still record all of them.

    Warnings and messages that several jobs share are shown once. With `has_overview`, the sweep itself logs the start
    and the end of the run, and the lines about epochs are shown at most every `SECONDS_BETWEEN_EPOCHS`.
    """

    def __init__(self, shared: SharedMessages, has_overview: bool) -> None:
        self._shared = shared
        self._has_overview = has_overview
        self._shown_at = time.monotonic()

    def __call__(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        if record.levelno < logging.WARNING and record.name in (START, END):
            return not self._has_overview
        if record.name == PROGRESS:
            now = time.monotonic()
            if self._has_overview and now - self._shown_at < SECONDS_BETWEEN_EPOCHS:
                return False
            self._shown_at = now
            return True
        return self._shared.is_new(record.getMessage())


def end_line(label: str, name: str, detail: str, seconds: float, left: float | None) -> str:
    """Return the line for a finished run. `left` is the expected time until the sweep ends, in seconds."""
    parts = [f"{label} {name}", detail, duration(seconds)]
    return "  ".join([*parts, f"({duration(left)} left)"] if left else parts)


def seconds_left(finished: Sequence[float], num_left: int, jobs: int) -> float | None:
    """Return the expected time of the runs that have not ended, from the times of those that have; None if unknown."""
    return sum(finished) / len(finished) * num_left / jobs if finished else None
