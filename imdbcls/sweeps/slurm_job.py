"""Train a run on a node of the cluster, and record its time and its end.

The folder `.submitit` of a study has up to three files for each job whose outcome is not recorded yet: `<run>.job`
names the job, `<run>.seconds` contains the time that its processes have used, and `<run>.end` contains the error of a
job that has ended (empty: no error).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from imdbcls.runtime.atomic import write_atomically
from imdbcls.sweeps.jobs import log_error, reason_of

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

FOLDER = ".submitit"  # in the folder of a study
SECONDS_BETWEEN_RECORDS = 10.0  # if a process is killed, at most this much of its time is not recorded


@dataclass(frozen=True)
class JobFiles:
    """The files of the job of one run; `folder` is the folder `.submitit` of its study."""

    folder: Path
    name: str

    @property
    def job(self) -> Path:
        return self.folder / f"{self.name}.job"

    @property
    def seconds(self) -> Path:
        return self.folder / f"{self.name}.seconds"

    @property
    def end(self) -> Path:
        return self.folder / f"{self.name}.end"

    def used_seconds(self) -> float | None:
        """Return the running time of all processes of the run since the last `remove`; None if no time is recorded."""
        text = read_text(self.seconds)
        return float(text) if text else None  # the file may be empty after a crash of the node

    def uncollected_seconds(self) -> float | None:
        """Return how long the job ran if it ended while no command was waiting for it, else None."""
        return self.used_seconds() if self.end.exists() else None

    def remove(self) -> None:
        for path in (self.job, self.seconds, self.end):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class SlurmJob:
    """A run as submitit pickles it and calls it on the cluster."""

    train: Callable[[], object]
    files: JobFiles

    def __call__(self) -> None:
        reason = ""
        with recording_time(self.files):
            try:
                self.train()
            except Exception as error:
                reason = reason_of(log_error(error))
        write_atomically(self.files.end, reason)

    def checkpoint(self) -> "DelayedSubmission":
        """Return the call that submitit makes after it has requeued the job at its time limit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def recording_time(files: JobFiles) -> Iterator[None]:
    """Add the duration of the block to `<run>.seconds`: every ten seconds, and when the block ends or raises."""
    before, started, ended = files.used_seconds() or 0.0, monotonic(), threading.Event()

    def record() -> None:
        write_atomically(files.seconds, str(before + monotonic() - started), durable=False)

    def keep_recording() -> None:
        while not ended.wait(SECONDS_BETWEEN_RECORDS):
            record()

    thread = threading.Thread(target=keep_recording, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        record()


def read_text(path: Path) -> str | None:
    """Return the text of a file without leading and trailing whitespace; None if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
