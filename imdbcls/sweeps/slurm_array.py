"""Submit runs as one array of Slurm jobs with submitit, so that a later command finds the jobs.

Before the submission, the file `<run>.job` contains the name of the array and the index of the run in the array. After
the submission, the file also contains the id of the job. If the command is killed in between, the next command finds
the array by its name in Slurm's queue.
"""

import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runtime.atomic import replacing, write_atomically
from imdbcls.sweeps.slurm_job import JobFiles, SlurmJob, read_text

JOB_NAME = "imdbcls"
# Launcher settings that submitit supports on every kind of cluster. All other settings get the prefix `slurm_`.
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
class Submission:
    """The content of `<run>.job`: the name of an array, the index of the run in it, and the id of the job if known.

    The folder with the name of the array contains submitit's files.
    """

    array: str
    index: int
    job_id: str = ""

    def write(self, files: JobFiles) -> None:
        write_atomically(files.job, f"{self.array}\n{self.index}\n{self.job_id}\n")

    def queued_id(self, queued: Mapping[str, str]) -> str | None:
        """Return the id of the job if it is in the queue (see `queued_jobs`), else None."""
        if self.job_id:
            return self.job_id if self.job_id in queued else None
        ids = (job_id for job_id, name in queued.items() if name == self.array)
        return next((each for each in ids if each.partition("_")[2] in ("", str(self.index))), None)


def read_submission(files: JobFiles) -> Submission | None:
    """Return the last submission of a run, or None if its outcome is recorded or the run was never submitted."""
    lines = (read_text(files.job) or "").split("\n")
    return Submission(lines[0], int(lines[1]), *lines[2:]) if len(lines) > 1 else None


def submit(jobs: Sequence[SlurmJob], folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Submit jobs as one array, write their `<run>.job` files, and return their ids.

    `folder` is the folder `.submitit` of the study. `settings` are the settings of Hydra's submitit launcher. Raise
    UserError if Slurm refuses the jobs.
    """
    given = str(settings["name"])
    name = f"{JOB_NAME if given.startswith('${') else given}-{uuid.uuid4().hex[:8]}"
    executor = make_executor(folder / name, {**settings, "name": name})
    (folder / name).mkdir(parents=True)
    submissions = [Submission(name, index) for index in range(len(jobs))]
    for job, submission in zip(jobs, submissions, strict=True):
        job.files.end.unlink(missing_ok=True)
        submission.write(job.files)
    try:
        submitted = executor.submit_array(jobs)
    except Exception as error:  # submitit raises several types of errors if sbatch refuses the settings
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        if "timed out" in str(error).lower():  # Slurm may still start the jobs
            raise UserError(
                f"Slurm did not answer whether it accepts the jobs: {reason.rstrip('.')}. Repeat the command: it finds "
                "the jobs if Slurm has started them."
            ) from error
        for job in jobs:
            job.files.job.unlink()
        raise UserError(f"Slurm does not accept the jobs: {reason.rstrip('.')}. Correct hydra.launcher.") from error
    ids = [str(each.job_id) for each in submitted]
    for job, submission, job_id in zip(jobs, submissions, ids, strict=True):
        replace(submission, job_id=job_id).write(job.files)
    return ids


def make_executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    import submitit

    settings = dict(settings)
    executor = submitit.AutoExecutor(
        folder=folder, cluster="slurm", slurm_max_num_timeout=settings.pop("max_num_timeout")
    )
    executor.update_parameters(**{key if key in SHARED else f"slurm_{key}": value for key, value in settings.items()})
    return executor


def queued_jobs() -> dict[str, str] | None:
    """Map the id of each pending or running job of this user to its name; None if Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %j"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode != 0:
        return None
    pairs = (line.strip().partition(" ") for line in answer.stdout.splitlines())
    return {job_id: name for job_id, _, name in pairs}


def find_job(job: SlurmJob, queued: Mapping[str, str], settings: Mapping[str, Any]) -> str | None:
    """Return the id of a run's job if it is in the queue, else None. Complete the submission of a killed command.

    submitit writes a pickle for each job after the submission. If the command was killed before that, this function
    writes the pickle. A job waits for its pickle for up to a minute after its start.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    submission = read_submission(job.files)
    job_id = None if submission is None else submission.queued_id(queued)
    if submission is None or job_id is None or job_id == submission.job_id:
        return job_id
    path = JobPaths(job.files.folder / submission.array, job_id).submitted_pickle
    if not path.exists():
        delayed = DelayedSubmission(job)
        delayed.set_timeout(int(settings["timeout_min"]), int(settings["max_num_timeout"]))
        with replacing(path) as temporary:
            delayed.dump(temporary)
    replace(submission, job_id=job_id).write(job.files)
    return job_id


def log_of(files: JobFiles, job_id: str) -> Path:
    """Return the file with the messages of a submitted job whose outcome is not recorded yet."""
    submission = read_submission(files)
    assert submission is not None
    return files.folder / submission.array / f"{job_id}_0_log.err"
