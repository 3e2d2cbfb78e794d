"""Jobs that Slurm refuses or loses, with scripts in place of Slurm's commands; see test_slurm.py for a real cluster."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS

from imdbcls.config.cluster import read_cluster
from imdbcls.errors import UserError
from imdbcls.sweeps import cluster, slurm_job
from imdbcls.sweeps.cluster import Cluster, Task, cluster_of
from imdbcls.sweeps.in_child import in_child
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.slurm_job import JobFiles, SlurmJob

SIGTERM = f"kill -TERM {os.getpid()}"
ACCEPTS = 'echo "$1" >> submissions; echo Submitted batch job 7'
NAME_OF_ARRAY = "sed -n 's/^#SBATCH --job-name=//p' \"$(head -1 submissions)\""  # of the first job array


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return a cluster that accepts every job and then has no job in its queue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, script in (("sbatch", ACCEPTS), ("squeue", "true"), ("srun", "true")):
        command(name, script)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "QUEUE_SECONDS", 0.0)
    found = cluster_of(read_cluster(["hydra/launcher=submitit_slurm"]).settings)
    assert found is not None
    return found


def command(name: str, script: str) -> None:
    Path(name).write_text(f"#!/bin/sh\n{script}\n")
    Path(name).chmod(0o755)


def after_asking(number: int, script: str) -> str:
    """Return a script for `squeue` that runs another script at call `number` of `squeue`."""
    counter = Path(f"asked-{number}")
    counter.unlink(missing_ok=True)
    return f'echo >> {counter}; test "$(wc -l < {counter})" = {number} && {{ {script}; }}; true'


def train(slurm: Cluster, *names: str) -> Sweep:
    """Train runs whose jobs never write a result."""
    sweep, ended = Sweep(), list[Outcome]()
    tasks = [Task(name, print, lambda: None, ended.append) for name in names or ("cls-s0",)]
    slurm.run(sweep, Path("runs/s"), tasks)
    assert sweep.outcomes == ended
    return sweep


def test_a_lost_job_has_failed(slurm: Cluster) -> None:
    (outcome,) = train(slurm).outcomes
    (array,) = Path("runs/s/.submitit").absolute().glob("imdbcls-*")
    log = array / "7_0_log.err"
    assert outcome == Outcome("cls-s0", "failed", f"job 7 ended without a result; see {log}")
    assert not list(Path("runs/s/.submitit").glob("*.job"))


def test_a_signal_stops_the_waiting_and_the_next_command_submits_nothing(
    slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("imdbcls.sweeps.cluster.logger.info", messages.append)
    for _ in range(2):
        command("squeue", f"echo 7; {after_asking(3, SIGTERM)}")
        sweep = train(slurm)
        assert sweep.stopped_by == signal.SIGTERM
        (outcome,) = sweep.outcomes
        assert outcome.state == "interrupted" and "scancel 7 stops it" in outcome.detail
    assert len(Path("submissions").read_text().splitlines()) == 1
    assert messages[-1] == "Waiting for 1 job that an earlier command has submitted: 7"
    command("squeue", "exit 1")
    with pytest.raises(UserError, match="Slurm does not answer squeue"):
        train(slurm)


@pytest.mark.parametrize("names", [("cls-s0",), ("cls-s0", "cls-s1")])
def test_a_command_killed_by_its_submission_finds_the_jobs_again(slurm: Cluster, names: tuple[str, ...]) -> None:
    """The command gets SIGKILL after Slurm has accepted the jobs, and before it knows their ids."""
    command("sbatch", f"{ACCEPTS}; kill -9 $PPID")
    with pytest.raises(RuntimeError, match="was killed"):
        in_child(partial(train, slurm, *names))
    ids = ["7"] if len(names) == 1 else ["7_0", "7_1"]
    queue = "; ".join(f'echo "{job_id} $({NAME_OF_ARRAY})"' for job_id in ids)
    command("squeue", f"echo 3 other; test -e lost || {{ {queue}; }}; {after_asking(3, SIGTERM)}")
    assert [outcome.state for outcome in train(slurm, *names).outcomes] == ["interrupted"] * len(names)
    assert len(Path("submissions").read_text().splitlines()) == 1
    for job_id in ids:  # the killed command had not written what the job executes; the second command wrote it
        assert list(Path("runs/s/.submitit").glob(f"imdbcls-*/{job_id}_submitted.pkl"))
    Path("lost").touch()  # all jobs have left the queue without a result, so they are submitted again
    command("sbatch", ACCEPTS)
    train(slurm, *names)
    assert len(Path("submissions").read_text().splitlines()) == 2


def test_the_jobs_of_a_killed_submission_may_arrive_late(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    command("sbatch", f"{ACCEPTS}; kill -9 $PPID")
    with pytest.raises(RuntimeError, match="was killed"):
        in_child(partial(train, slurm))
    late = f"{after_asking(3, 'touch late')}; {after_asking(8, SIGTERM)}"
    command("squeue", f'test -e late && echo "7 $({NAME_OF_ARRAY})"; {late}')
    (outcome,) = train(slurm).outcomes
    assert outcome.state == "interrupted" and len(Path("submissions").read_text().splitlines()) == 1


def test_a_signal_while_jobs_may_still_arrive_submits_nothing(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    command("sbatch", f"{ACCEPTS}; kill -9 $PPID")
    with pytest.raises(RuntimeError, match="was killed"):
        in_child(partial(train, slurm))
    command("sbatch", ACCEPTS)
    monkeypatch.setattr(cluster, "QUEUE_SECONDS", HANG_SECONDS)
    command("squeue", f"(sleep 0.5; {SIGTERM}) > /dev/null 2>&1 &")
    sweep = train(slurm)
    assert sweep.stopped_by == signal.SIGTERM
    assert sweep.outcomes == [Outcome("cls-s0", "not started", "the sweep was stopped")]
    assert len(Path("submissions").read_text().splitlines()) == 1


def test_a_submission_that_never_arrives_is_repeated(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    command("sbatch", "echo $1 >> submissions; kill -9 $PPID")
    with pytest.raises(RuntimeError, match="was killed"):
        in_child(partial(train, slurm))
    command("sbatch", ACCEPTS)
    monkeypatch.setattr(cluster, "SUBMISSION_SECONDS", 1.0)
    train(slurm)
    assert len(Path("submissions").read_text().splitlines()) == 2


def test_a_run_whose_job_is_killed_after_its_result_is_done(slurm: Cluster) -> None:
    result = {"status": "trial", "config_hash": "1a2b", "metric": "accuracy", "val/accuracy": 0.5}
    sweep = Sweep()
    slurm.run(sweep, Path("runs/s"), [Task("cls-s0", print, lambda: result, lambda outcome: None)])
    assert [(each.state, each.detail) for each in sweep.outcomes] == [("done", "validation 50.00%")]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    sys.exit()


def fail() -> None:
    raise UserError("the reason")


def run_for_a_moment(end: Callable[[], None]) -> None:
    threading.Event().wait(0.3)
    end()


@pytest.mark.parametrize("end", [die, leave])  # SIGKILL, and the exit of a preempted run
def test_the_time_of_a_requeued_job_is_that_of_all_its_processes(
    end: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slurm_job, "SECONDS_BETWEEN_RECORDS", 0.01)
    files = JobFiles(tmp_path, "cls-s0")

    began = time.monotonic()
    for number in (1, 2):
        with pytest.raises((RuntimeError, SystemExit)):
            in_child(partial(SlurmJob(partial(run_for_a_moment, end), files)))
        used = files.used_seconds() or 0.0
        assert 0.25 * number < used < time.monotonic() - began and files.uncollected_seconds() is None
    SlurmJob(partial(run_for_a_moment, fail), files)()
    assert files.end.read_text() == "the reason" and (files.uncollected_seconds() or 0.0) > 0.75


def test_an_empty_file_is_no_recorded_time(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "cls-s0")
    files.seconds.touch()  # the file that a crash of the node leaves
    assert files.used_seconds() is None


def test_refused_settings_give_slurms_reason(slurm: Cluster) -> None:
    command("sbatch", "echo sbatch: error: invalid partition specified: gpu >&2; exit 1")
    with pytest.raises(UserError, match=r"Slurm does not accept the jobs: .*invalid partition specified: gpu"):
        train(slurm)
    assert not list(Path("runs/s/.submitit").glob("*.job")), "the next command does not wait for the refused jobs"
    command("sbatch", "echo sbatch: error: Batch job submission failed: Socket timed out >&2; exit 1")
    with pytest.raises(UserError, match=r"did not answer .*Socket timed out\. Repeat the command"):
        train(slurm)
    assert list(Path("runs/s/.submitit").glob("*.job")), "after a timeout, Slurm may have accepted the jobs"


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        cluster_of({})
