"""Train runs as jobs of a Slurm cluster, which submitit submits as one array and requeues at their time limits.

This process only waits for the jobs. If it ends, the jobs continue, and the same command waits for them again. The
folder `.submitit` of a study contains submitit's own files, the id of each job (`<run>.job`), and the time and the
error of each job that has ended (`<run>.end`).
"""

import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.config.cluster import GROUP, SLURM
from imdbcls.errors import UserError
from imdbcls.runtime import limits
from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.signals import stop_requests
from imdbcls.sweeps.jobs import Outcome, Sweep, log_error, outcome_of, reason_of

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

logger = logging.getLogger(__name__)

FOLDER = ".submitit"
POLL_SECONDS = 1.0  # between two checks of the files of jobs
QUEUE_SECONDS = 20.0  # between two questions to Slurm
JOB_NAME = "imdbcls"
# Settings of the launcher that submitit has for all kinds of clusters. The names of the others start with `slurm_`.
SHARED = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
)


@dataclass(frozen=True)
class Task:
    """A run to train as a job: its name, the function that trains it, and the function that reads its `result.json`.

    `on_end` gets the outcome when the job has ended, or when this process no longer waits for it.
    """

    name: str
    train: Callable[[], object]
    read_result: Callable[[], Mapping[str, Any] | None]
    on_end: Callable[[Outcome], None]


@dataclass
class ClusterJob:
    """A run as submitit pickles it and calls it on the cluster. `end` is the path of the file to write at the end."""

    train: Callable[[], object]
    end: Path
    seconds: float = 0.0  # of earlier processes of this job that reached their time limit

    def __call__(self) -> None:
        self.started = time.monotonic()
        reason = ""
        try:
            self.train()
        except Exception as error:
            explained = limits.explain(error) or error
            log_error(explained)
            reason = reason_of(explained)
        write_atomically(self.end, f"{self.elapsed}\n{reason}\n")

    @property
    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def checkpoint(self) -> "DelayedSubmission":
        """Return what submitit calls after it has requeued the job at its time limit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(ClusterJob(self.train, self.end, self.elapsed))


@dataclass
class Waiting:
    """A job that this process waits for: its task, its index in `Sweep.outcomes`, and its id."""

    task: Task
    index: int
    job_id: str
    misses: int = 0  # number of successive answers of Slurm in which the job was missing


class Cluster:
    """A Slurm cluster. `settings` are the settings of Hydra's submitit launcher."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if shutil.which("sbatch") is None:
            raise UserError(
                f"{GROUP}={SLURM} needs Slurm, but sbatch is not on the PATH. Use a machine of the cluster."
            )
        self._settings = settings

    def run(self, sweep: Sweep, study: Path, tasks: Sequence[Task], on_wait: Callable[[], None] = lambda: None) -> None:
        """Train the tasks as one array of jobs, and append their outcomes to the sweep in the same order.

        A task whose job is already in Slurm's queue is not submitted again. `on_wait` is called about once a second. A
        signal stops the waiting, not the jobs.
        """
        folder = (study / FOLDER).absolute()
        with stop_requests() as stop:
            ids = self._submit(folder, tasks)
            waiting = [Waiting(task, len(sweep.outcomes) + i, ids[task.name]) for i, task in enumerate(tasks)]
            sweep.outcomes += [Outcome(task.name, "running", "") for task in tasks]
            asked = time.monotonic()
            while waiting and stop.signal_number is None:
                time.sleep(POLL_SECONDS)
                on_wait()
                queued = None
                if time.monotonic() - asked > QUEUE_SECONDS:
                    queued, asked = queued_jobs(), time.monotonic()
                waiting = [each for each in waiting if not self._collect(sweep, folder, each, queued)]
        sweep.stopped_by = stop.signal_number
        for each in waiting:
            detail = f"job {each.job_id} continues on the cluster; scancel {each.job_id} stops it"
            self._record(sweep, each, Outcome(each.task.name, "interrupted", detail))

    def _submit(self, folder: Path, tasks: Sequence[Task]) -> dict[str, str]:
        """Return the id of each task's job. Submit the tasks that have no job in Slurm's queue."""
        found = {task.name: read_text(job_file(folder, task.name)) for task in tasks}
        queued = queued_jobs() if any(found.values()) else set()
        if queued is None:
            raise UserError(
                "Slurm does not answer squeue, so the jobs of the earlier command are unknown. Try it again."
            )
        ids = {name: job_id for name, job_id in found.items() if job_id in queued}
        if ids:
            logger.info(f"Waiting for {len(ids)} jobs that an earlier command has submitted: {', '.join(ids.values())}")
        new = [task for task in tasks if task.name not in ids]
        if not new:
            return ids
        for task in new:
            end_file(folder, task.name).unlink(missing_ok=True)
        jobs = self._executor(folder)
        try:
            submitted = jobs.submit_array([ClusterJob(task.train, end_file(folder, task.name)) for task in new])
        except Exception as error:  # sbatch refuses the settings; submitit raises several types
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(f"Slurm does not accept the jobs: {reason.rstrip('.')}. Correct hydra.launcher.") from error
        for task, job in zip(new, submitted, strict=True):
            ids[task.name] = job.job_id
            write_atomically(job_file(folder, task.name), f"{job.job_id}\n")
        first, last = submitted[0].job_id, submitted[-1].job_id
        name = f"job {first}" if first == last else f"jobs {first} to {last}"
        logger.info(f"Submitted {name} to Slurm. The messages of the runs are in {folder}.")
        return ids

    def _executor(self, folder: Path) -> Any:
        import submitit

        settings = dict(self._settings)
        executor = submitit.AutoExecutor(
            folder=folder / "%j", cluster="slurm", slurm_max_num_timeout=settings.pop("max_num_timeout")
        )
        if str(settings["name"]).startswith("${"):
            settings["name"] = JOB_NAME
        executor.update_parameters(
            **{key if key in SHARED else f"slurm_{key}": value for key, value in settings.items()}
        )
        return executor

    def _collect(self, sweep: Sweep, folder: Path, job: Waiting, queued: set[str] | None) -> bool:
        """Record the outcome of a job and return True if the job has ended."""
        name, end = job.task.name, read_text(end_file(folder, job.task.name))
        if queued is not None:
            job.misses = 0 if job.job_id in queued else job.misses + 1
        if not end and job.misses < 2:
            return False
        if end:
            seconds, _, reason = end.partition("\n")
            outcome = replace(
                outcome_of(name, int(bool(reason)), reason, job.task.read_result()), seconds=float(seconds)
            )
        else:
            outcome = outcome_of(name, 1, "", job.task.read_result())
            if outcome.state == "failed":
                log = folder / job.job_id / f"{job.job_id}_0_log.err"
                outcome = replace(outcome, detail=f"job {job.job_id} ended without a result; see {log}")
        job_file(folder, name).unlink(missing_ok=True)
        self._record(sweep, job, outcome)
        return True

    def _record(self, sweep: Sweep, job: Waiting, outcome: Outcome) -> None:
        sweep.outcomes[job.index] = outcome
        job.task.on_end(outcome)


def cluster_of(launcher: Mapping[str, Any] | None) -> Cluster | None:
    return None if launcher is None else Cluster(launcher)


def queued_jobs() -> set[str] | None:
    """Return the ids of this user's jobs that are pending or running; None if Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    return set(answer.stdout.split()) if answer.returncode == 0 else None


def job_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.job"


def end_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.end"


def read_text(path: Path) -> str:
    """Return the text of a small file without the final newline, or "" if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
