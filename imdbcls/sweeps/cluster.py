"""Train runs as jobs of a Slurm cluster. submitit submits the jobs as one array, and requeues them at time limits.

This process only waits for the jobs. If it ends, the jobs continue, and the same command waits for them again. The
folder `.submitit` of a study contains submitit's own files and the files of `slurm_job`.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imdbcls.config.cluster import GROUP, SLURM
from imdbcls.errors import UserError
from imdbcls.printable import counted
from imdbcls.runtime.signals import Interrupted, stop_requests
from imdbcls.sweeps.jobs import Outcome, Sweep, outcome_of
from imdbcls.sweeps.slurm_array import find_job, log_of, queued_jobs, read_submission, submit
from imdbcls.sweeps.slurm_job import FOLDER, JobFiles, SlurmJob, read_text

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two checks of the files of jobs
QUEUE_SECONDS = 20.0  # between two queries of Slurm's queue
SUBMISSION_SECONDS = 60.0  # a submission that is older than this and is not in the queue has failed


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
class Waiting:
    """A job that this process waits for: its task, its index in `Sweep.outcomes`, and its id."""

    task: Task
    index: int
    job_id: str
    misses: int = 0  # number of consecutive queries in which the job was not in Slurm's queue


class Cluster:
    """A Slurm cluster. `settings` are the settings of Hydra's submitit launcher."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if shutil.which("sbatch") is None:
            raise UserError(
                f"{GROUP}={SLURM} needs Slurm, but sbatch is not on the PATH. Run the command on a machine of the "
                "cluster."
            )
        self._settings = settings

    def run(self, sweep: Sweep, study: Path, tasks: Sequence[Task], on_wait: Callable[[], None] = lambda: None) -> None:
        """Train the tasks as one array of jobs, and append their outcomes to the sweep in the same order.

        A task whose job is already in Slurm's queue is not submitted again. `on_wait` is called about once a second. A
        signal stops the waiting, not the jobs. A signal before the submission also prevents the submission.
        """
        folder = (study / FOLDER).absolute()
        jobs = [SlurmJob(task.train, JobFiles(folder, task.name)) for task in tasks]
        with stop_requests() as stop:
            try:
                with stop.interruptible():
                    queued = known_jobs(jobs)
            except Interrupted:
                sweep.stopped_by = stop.signal_number
                not_started = [Outcome(task.name, "not started", "the sweep was stopped") for task in tasks]
                sweep.outcomes += not_started
                for task, outcome in zip(tasks, not_started, strict=True):
                    task.on_end(outcome)
                return
            ids = self._submit(folder, jobs, queued)
            waiting = [Waiting(task, len(sweep.outcomes) + i, ids[task.name]) for i, task in enumerate(tasks)]
            sweep.outcomes += [Outcome(task.name, "running", "") for task in tasks]
            asked = time.monotonic()
            while waiting and stop.signal_number is None:
                time.sleep(POLL_SECONDS)
                on_wait()
                latest = None
                if time.monotonic() - asked > QUEUE_SECONDS:
                    latest, asked = queued_jobs(), time.monotonic()
                waiting = [each for each in waiting if not self._collect(sweep, folder, each, latest)]
        sweep.stopped_by = stop.signal_number
        for each in waiting:
            detail = f"job {each.job_id} continues on the cluster; scancel {each.job_id} stops it"
            self._record(sweep, each, Outcome(each.task.name, "interrupted", detail))

    def _submit(self, folder: Path, jobs: Sequence[SlurmJob], queued: Mapping[str, str]) -> dict[str, str]:
        """Submit the jobs that are not in Slurm's queue. Return the ids of all jobs, keyed by the name of the run."""
        ids = {}
        for job in jobs:
            job_id = find_job(job, queued, self._settings)
            if job_id is not None:
                ids[job.files.name] = job_id
        if ids:
            listed = ", ".join(ids.values())
            logger.info(f"Waiting for {counted(len(ids), 'job')} that an earlier command has submitted: {listed}")
        new = [job for job in jobs if job.files.name not in ids]
        if new:
            submitted = submit(new, folder, self._settings)
            name = f"job {submitted[0]}" if len(new) == 1 else f"jobs {submitted[0]} to {submitted[-1]}"
            logger.info(f"Submitted {name} to Slurm. The messages of the runs are in {folder}.")
            ids.update(zip((job.files.name for job in new), submitted, strict=True))
        return ids

    def _collect(self, sweep: Sweep, folder: Path, job: Waiting, queued: Mapping[str, str] | None) -> bool:
        """If a job has ended, record its outcome and return True; else return False."""
        files = JobFiles(folder, job.task.name)
        reason = read_text(files.end)
        if queued is not None:
            job.misses = 0 if job.job_id in queued else job.misses + 1
        if reason is None and job.misses < 2:
            return False
        outcome = outcome_of(files.name, int(bool(reason)), reason or "", job.task.read_result())
        if reason is None and outcome.state == "failed":
            detail = f"job {job.job_id} ended without a result; see {log_of(files, job.job_id)}"
            outcome = replace(outcome, detail=detail)
        self._record(sweep, job, replace(outcome, seconds=files.used_seconds()))
        files.remove()
        return True

    def _record(self, sweep: Sweep, job: Waiting, outcome: Outcome) -> None:
        sweep.outcomes[job.index] = outcome
        job.task.on_end(outcome)


def known_jobs(jobs: Sequence[SlurmJob]) -> Mapping[str, str]:
    """Return the result of `queued_jobs`, or {} if no earlier command has submitted any of these jobs.

    An earlier command may have ended while it submitted jobs, before it knew their ids. Wait until this submission is
    `SUBMISSION_SECONDS` old, because its jobs may still appear in the queue. Raise UserError if Slurm does not answer.
    """
    if not any(job.files.job.exists() for job in jobs):
        return {}
    is_logged = False
    while True:
        queued = queued_jobs()
        if queued is None:
            raise UserError(
                "Slurm does not answer squeue, so the jobs of the earlier command are unknown. Run the command again."
            )
        if not any(may_arrive(job.files, queued) for job in jobs):
            return queued
        if not is_logged:
            logger.info("Waiting for jobs that may still arrive: an earlier command ended while it submitted them.")
            is_logged = True
        time.sleep(QUEUE_SECONDS)


def may_arrive(files: JobFiles, queued: Mapping[str, str]) -> bool:
    """Return whether the run's job may still appear in the queue, because its submission is recent."""
    submission = read_submission(files)
    if submission is None or submission.job_id or submission.queued_id(queued) is not None:
        return False
    return time.time() - files.job.stat().st_mtime < SUBMISSION_SECONDS


def cluster_of(launcher: Mapping[str, Any] | None) -> Cluster | None:
    return None if launcher is None else Cluster(launcher)
