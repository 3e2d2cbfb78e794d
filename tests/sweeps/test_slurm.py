"""Runs as jobs of a real Slurm cluster: preempted, at their time limit, and equal to undisturbed runs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import EVERY_STEP, TINY, digest, run, share_kernels
from support.runs import PERSONAL, ROOT
from support.slurm import slurm_cluster

PLUGIN = ("plugins=[faulty]", "head._target_=faulty.FaultyHead")
SETTINGS = (*TINY, *PLUGIN, EVERY_STEP, "data.test_limit=16", "data.validation_limit=16")
LAUNCHER = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")
PLUGINS = str(ROOT / "tests" / "support" / "plugins")
SECONDS = 400  # for a step of the test; only a failing test takes that long

pytestmark = [pytest.mark.slow, pytest.mark.needs("slurm")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a cluster, and return the environment variables of a user with empty folders."""
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
        # In each job, the head waits in its third training batch until the gate exists.
        self._environment = {**environment, "FAULT": "gate", "FAULT_AT": "3", "GATE": str(self.gate)}
        self._log = folder / "command.log"
        with self._log.open("w") as log:
            command = [sys.executable, "-m", *arguments]
            self.process = subprocess.Popen(
                command, cwd=folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> "ClusterCommand":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.slurm("scancel", "--user=root")

    def slurm(self, *command: str) -> str:
        """Run a command of Slurm and return its output."""
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def accepts(self, *command: str) -> bool:
        """Return whether a command of Slurm succeeds."""
        return subprocess.run(command, env=self._environment, check=False, capture_output=True).returncode == 0

    @property
    def output(self) -> str:
        return self._log.read_text()

    def log_of_jobs(self, suffix: str) -> str:
        """Return the messages of the runs (`err`) or of submitit (`out`)."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"runs/*/.submitit/*/*_log.{suffix}")))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None and time.monotonic() < limit, self.output + self.log_of_jobs("err")
            time.sleep(0.1)

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
    """Both runs stop after two batches. Slurm then ends job 1 at its time limit, and `scontrol requeue` ends job 0."""
    limits = ("hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=60", "hydra.launcher.max_num_timeout=1")
    arguments = ("imdbcls.train", "--multirun", "seed=0,1", *SETTINGS, *LAUNCHER, *limits)
    with ClusterCommand(tmp_path / "cluster", environment, *arguments) as sweep:
        sweep.wait_until(lambda: sweep.saved_steps() == [2, 2])
        preempted, timed_out = sorted(sweep.slurm("squeue", "--noheader", "--array", "--format=%i").split())
        # Slurm looks for jobs near their limit twice a minute, and sends their signal up to a minute early.
        sweep.slurm("scontrol", "update", f"JobId={timed_out}", "EndTime=now+80")
        undisturbed = tmp_path / "undisturbed"
        undisturbed.mkdir()
        variables = {"PYTHONPATH": PLUGINS, "OMP_NUM_THREADS": "1"}
        for seed in (0, 1):
            run(undisturbed, f"seed={seed}", *SETTINGS, environment=variables)
        sweep.wait_until(lambda: "this job is timed-out" in sweep.log_of_jobs("err"))
        sweep.slurm("scontrol", "requeue", preempted)
        sweep.gate.touch()
        sweep.wait_until(lambda: sweep.accepts("scontrol", "update", f"JobId={timed_out}", "TimeLimit=10"))
        assert sweep.wait() == 0, sweep.output + sweep.log_of_jobs("err")
    messages, submitit = sweep.log_of_jobs("err"), sweep.log_of_jobs("out")
    assert messages.count("Continuing at step 2") == 2, messages
    assert messages.count("this job is timed-out") == 1 and messages.count("SIGTERM: stopping") == 1, messages
    assert submitit.count("Requeued job") == 1 and submitit.count("Job completed successfully") == 2, submitit
    assert len(sweep.runs()) == 2
    for each in sweep.runs():
        assert json.loads((each / "result.json").read_text())["status"] == "done"
        assert hash_of_weights(each) == hash_of_weights(undisturbed / "runs/default" / each.name)
