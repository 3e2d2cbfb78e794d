"""Jobs that Slurm refuses or loses, with scripts in place of Slurm's commands; see test_slurm.py for a real cluster."""

import os
import signal
import threading
from pathlib import Path

import pytest

from imdbcls.config.cluster import read_cluster
from imdbcls.errors import UserError
from imdbcls.sweeps import cluster
from imdbcls.sweeps.cluster import Cluster, Task, cluster_of
from imdbcls.sweeps.jobs import Outcome, Sweep

ACCEPTS = 'echo "$1" >> submissions; echo Submitted batch job 7'


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


def train(slurm: Cluster) -> Sweep:
    """Train one run whose job never writes a result."""
    sweep, ended = Sweep(), list[Outcome]()
    slurm.run(sweep, Path("runs/s"), [Task("cls-s0", print, lambda: None, ended.append)])
    assert sweep.outcomes == ended
    return sweep


def test_a_lost_job_has_failed(slurm: Cluster) -> None:
    (outcome,) = train(slurm).outcomes
    log = Path("runs/s/.submitit/7/7_0_log.err").absolute()
    assert outcome == Outcome("cls-s0", "failed", f"job 7 ended without a result; see {log}")
    assert not list(Path("runs/s/.submitit").glob("*.job"))


def test_a_signal_stops_the_waiting_and_the_next_command_submits_nothing(slurm: Cluster) -> None:
    command("squeue", "echo 7")
    for _ in range(2):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        sweep = train(slurm)
        assert sweep.stopped_by == signal.SIGTERM
        (outcome,) = sweep.outcomes
        assert outcome.state == "interrupted" and "scancel 7 stops it" in outcome.detail
    assert len(Path("submissions").read_text().splitlines()) == 1
    command("squeue", "exit 1")
    with pytest.raises(UserError, match="Slurm does not answer squeue"):
        train(slurm)


def test_refused_settings_give_slurms_reason(slurm: Cluster) -> None:
    command("sbatch", "echo sbatch: error: invalid partition specified: gpu >&2; exit 1")
    with pytest.raises(UserError, match=r"Slurm does not accept the jobs: .*invalid partition specified: gpu"):
        train(slurm)


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        cluster_of({})
