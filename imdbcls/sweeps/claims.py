"""Share jobs between processes, so that each job runs in only one process at a time.

A claim is a locked file. The kernel releases the lock when the process ends, even after SIGKILL, so a job whose process
is dead can be claimed again. For a folder that several machines share, see `runtime.locks`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imdbcls.errors import UserError
from imdbcls.runs.folder import run_folder
from imdbcls.runtime.locks import file_lock
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.multirun import Train, start_job

if TYPE_CHECKING:
    from filelock import FileLock

    from imdbcls.config.schema import Config

POLL_SECONDS = 1.0  # between two checks of the jobs of other processes


class Claims:
    """Claims of jobs, stored in a hidden folder as one lock file per job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".claims"

    def claim(self, name: str) -> "FileLock | None":
        """Return the acquired lock of a job, or None if another process has it."""
        from filelock import Timeout

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = file_lock(self._folder / f"{name}.lock")
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            raise UserError(f"{self._folder} cannot be locked ({error}). Choose another runs_dir.") from error
        return lock

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Run the block in only one process at a time, so that two processes cannot make the same decision."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = file_lock(self._folder / "all.lock")
            lock.acquire()
        except OSError as error:
            raise UserError(f"{self._folder} cannot be locked ({error}). Choose another runs_dir.") from error
        with lock:
            yield


@dataclass(frozen=True)
class Claimed:
    """A job of this process: its index in `Sweep.outcomes`, its lock, and the function to call with its outcome."""

    index: int
    lock: "FileLock"
    on_end: Callable[[Outcome], None]


class ClaimedJobs:
    """The jobs of a sweep that this process has claimed."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._claimed: list[Claimed] = []

    @property
    def are_running(self) -> bool:
        return bool(self._claimed)

    def start(
        self,
        config: "Config",
        train: Train,
        lock: "FileLock",
        on_end: Callable[[Outcome], None],
        name: str = "",
        caption: str = "",
    ) -> None:
        """Start a job as `start_job` does. When the job ends, `on_end` gets its outcome, and `lock` is released."""
        self._claimed.append(Claimed(len(self.sweep.outcomes), lock, on_end))
        start_job(self.sweep, config, run_folder(config), train, name, caption)
        self.collect()

    def collect(self) -> None:
        """For each job that has ended, pass its outcome to `on_end` and release its lock."""
        for job in list(self._claimed):
            outcome = self.sweep.outcomes[job.index] if job.index < len(self.sweep.outcomes) else None
            if outcome is not None and outcome.state != "running":
                self._claimed.remove(job)
                job.on_end(outcome)
                job.lock.release()

    def wait(self) -> None:
        """Wait until all running jobs have ended, and call `collect`."""
        self.sweep.wait()
        self.collect()
