"""Runs as jobs of a real Slurm cluster: preempted, at their time limit, and as rounds of a study or a tuning."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import EVERY_STEP, TINY, digest, run, share_kernels
from support.runs import PERSONAL, ROOT
from support.slurm import end_jobs, slurm_cluster
from support.studies import with_documents

PLUGIN = ("plugins=[faulty]", "head._target_=faulty.FaultyHead")
SETTINGS = (*TINY, *PLUGIN, EVERY_STEP, "data.test_limit=16", "data.validation_limit=16")
LAUNCHER = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
PLUGINS = str(ROOT / "tests" / "support" / "plugins")
SECONDS = 400  # limit for each step of a test; only a failing test takes that long

pytestmark = [pytest.mark.slow, pytest.mark.needs("slurm")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a cluster, and yield the environment variables of a user with empty folders."""
    home = tmp_path_factory.mktemp("home")
    share_kernels(home / "cache")
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as variables:
        kept = {name: value for name, value in variables.items() if not name.startswith(PERSONAL)}
        yield {**kept, "HOME": str(home), "IMDBCLS_CACHE": str(home / "cache"), "PYTHONPATH": PLUGINS}


class ClusterCommand:
    """A command whose runs are jobs of the cluster, and its folder."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.gate = folder / "gate"
        self._log = folder / "command.log"
        self.change_environment(environment)
        self.start(*arguments)

    def change_environment(self, environment: dict[str, str]) -> None:
        """Set the environment variables. In each job, the head waits in its third training batch for the gate."""
        self._environment = {**environment, "FAULT": "gate", "FAULT_AT": "3", "GATE": str(self.gate)}

    def start(self, *arguments: str) -> None:
        with self._log.open("w") as log:
            command = [sys.executable, "-m", *arguments]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> "ClusterCommand":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        end_jobs(self._environment)

    def slurm(self, *command: str) -> str:
        """Run a Slurm command and return its output."""
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def accepts(self, *command: str) -> bool:
        """Return whether a Slurm command succeeds."""
        return subprocess.run(command, env=self._environment, check=False, capture_output=True).returncode == 0

    @property
    def output(self) -> str:
        return self._log.read_text()

    def log_of_jobs(self, suffix: str) -> str:
        """Return the messages of the runs (`err`) or of submitit (`out`)."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"runs/*/.submitit/*/*_log.{suffix}")))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true. Fail if the command ends first."""
        limit = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None and time.monotonic() < limit, self.output + self.log_of_jobs("err")
            time.sleep(0.1)

    def wait_until_no_job_is_left(self) -> None:
        limit = time.monotonic() + SECONDS
        while self.queue():
            assert time.monotonic() < limit, self.log_of_jobs("err")
            time.sleep(0.1)

    def queue(self) -> list[str]:
        """Return the ids of the jobs in Slurm's queue."""
        return self.slurm("squeue", "--noheader", "--array", "--format=%i").split()

    def times(self) -> list[Path]:
        """Return the files with the times of jobs, without those that a command has collected."""
        return sorted(self.folder.glob("runs/*/.submitit/*.seconds"))

    def wait(self) -> int:
        self.process.wait(SECONDS)
        return self.process.returncode

    def runs(self) -> list[Path]:
        return sorted(self.folder.glob("runs/*/*-s*"))

    def saved_steps(self) -> list[int]:
        """Return the step of the last checkpoint of each run."""
        states = [run / "checkpoints/last/state.json" for run in self.runs()]
        return [json.loads(state.read_text())["train"]["step"] for state in states if state.exists()]


def hash_of_weights(run_folder: Path) -> str:
    return digest(run_folder / "checkpoints/best/model.safetensors")


def test_a_preempted_and_a_timed_out_job_end_like_undisturbed_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """Both runs wait in their third batch until Slurm has signalled job 1 before its time limit and requeued job 0."""
    limits = ("hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=60", "hydra.launcher.max_num_timeout=20")
    arguments = ("imdbcls.train", "--multirun", "seed=0,1", *SETTINGS, *LAUNCHER, *limits)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    with ClusterCommand(tmp_path / "cluster", environment, *arguments) as sweep:
        for seed in (0, 1):
            variables = {"PYTHONPATH": PLUGINS, "OMP_NUM_THREADS": "1"}
            run(undisturbed, f"seed={seed}", *SETTINGS, environment=variables)
        sweep.wait_until(lambda: sweep.saved_steps() == [2, 2])
        preempted, timed_out = sorted(sweep.queue())
        # Slurm looks for jobs near their limit twice a minute, and sends their signal up to a minute early.
        sweep.slurm("scontrol", "update", f"JobId={timed_out}", "EndTime=now+80")
        sweep.wait_until(lambda: "this job is timed-out" in sweep.log_of_jobs("err"))
        sweep.wait_until(lambda: sweep.accepts("scontrol", "update", f"JobId={timed_out}", "TimeLimit=10"))
        sweep.slurm("scontrol", "requeue", preempted)
        sweep.wait_until(lambda: "SIGTERM: stopping" in sweep.log_of_jobs("err"))
        sweep.gate.touch()
        assert sweep.wait() == 0, sweep.output + sweep.log_of_jobs("err")
    messages, submitit = sweep.log_of_jobs("err"), sweep.log_of_jobs("out")
    assert messages.count("Continuing at step 2") >= 2, messages
    assert f"Requeued job {timed_out}" in submitit and submitit.count("Job completed successfully") == 2, submitit
    assert len(sweep.runs()) == 2
    for each in sweep.runs():
        assert json.loads((each / "result.json").read_text())["status"] == "done"
        assert hash_of_weights(each) == hash_of_weights(undisturbed / "runs/default" / each.name)


def test_a_killed_study_finds_its_jobs_again_and_counts_all_their_time(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The study gets SIGKILL when Slurm has just accepted the round, and again after a requeued job has continued.

    The jobs then end while no command waits for them. No command submits them again.
    """
    groups = ("head.dropout=0.1,0.2", "seeds.first=2", "seeds.max=2", "study=s", "epochs=1")
    arguments = ("imdbcls.study", *SETTINGS, *groups, *LAUNCHER)
    killing = killed_after_submission(tmp_path, environment)
    with ClusterCommand(tmp_path, killing, *arguments) as study:
        study.process.wait(SECONDS)
        assert study.process.returncode == -signal.SIGKILL and "Submitted" not in study.output
        queued = study.queue()
        study.change_environment(environment)
        study.start(*arguments)
        study.wait_until(lambda: "Waiting for 4 jobs that an earlier command has submitted" in study.output)
        study.wait_until(lambda: study.saved_steps() == [2, 2])
        requeued = min(queued)
        study.slurm("scontrol", "requeue", requeued)
        study.wait_until(lambda: "SIGTERM: stopping" in study.log_of_jobs("err"))
        (before,) = [path for path in study.times() if requeued in path.with_suffix(".job").read_text()]
        study.gate.touch()
        study.wait_until(lambda: "Continuing at step 2" in study.log_of_jobs("err"))
        first_part = float(before.read_text())
        study.process.kill()
        study.process.wait()
        study.wait_until_no_job_is_left()
        study.start(*arguments)
        assert study.wait() == 0, study.output + study.log_of_jobs("err")
    array = {job.partition("_")[0] for job in queued}
    assert len(queued) == 4 and len(array) == 1
    assert "Submitted" not in study.output and "Look 1 of 1, after 2 seeds: the study is over" in study.output
    assert [json.loads((run / "result.json").read_text())["status"] for run in study.runs()] == ["done"] * 4
    assert not study.times() and not list(tmp_path.glob("runs/s/.submitit/*.job"))
    seconds = json.loads((tmp_path / "runs/s/wall_times.json").read_text())["seconds"]
    assert sorted(seconds) == [run.name for run in study.runs()]
    assert seconds[before.stem] > first_part > 1


def killed_after_submission(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment whose `sbatch` kills the command as soon as Slurm has accepted its jobs."""
    programs = folder / "killing"
    programs.mkdir()
    path = environment["PATH"]
    (programs / "sbatch").write_text(f'#!/bin/sh\nPATH={path} sbatch "$@" && kill -9 $PPID\n')
    (programs / "sbatch").chmod(0o755)
    return {**environment, "PATH": f"{programs}:{path}"}


def test_trials_on_the_cluster_are_those_of_a_tuning_on_one_machine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Each array has one trial of each group, so every trial is compared with the same earlier trials."""
    search = ("head=mean,max", "lr=tag(log,interval(1e-8,3e-2))", "pruner=asha", "sampler=random", "budget.trials=2")
    documents = (
        "data=files",
        "data.train=train.csv",
        "data.test=test.csv",
        "max_length=16",
        "batch_size=8",
        "epochs=2",
    )
    hardware = ("backbone=tiny", "device=cpu", "precision=fp32", "tracker=none", "progress=none")
    arguments = (*documents, *hardware, *search, "study=t")
    folder, local = with_documents(tmp_path / "cluster"), with_documents(tmp_path / "local")
    with ClusterCommand(folder, environment, "imdbcls.tune", *arguments, "winners.seeds=1", *LAUNCHER) as tuning:
        run(local, *arguments, "winners.seeds=0", command="imdbcls.tune")
        assert tuning.wait() == 0, tuning.output + tuning.log_of_jobs("err")
    found = trials_of(folder)
    assert found == trials_of(local) and "pruned" in [trial["state"] for trial in found]
    assert tuning.output.count("Submitted jobs") == 3  # two arrays of trials, and one array of winners
    winners = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/t/*/result.json"))]
    assert [(winner["status"], winner["head"], winner["seed"]) for winner in winners] == [
        ("done", "max", 1),
        ("done", "mean", 1),
    ]


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """Return all trials of tuning.json without their times."""
    groups = json.loads((folder / "runs/t-trials/tuning.json").read_text())["groups"]
    trials = [trial for group in groups for trial in group["trials"]]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]
