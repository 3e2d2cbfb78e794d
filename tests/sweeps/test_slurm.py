"""Runs as jobs of a real Slurm cluster: preempted, at their time limit, and equal to undisturbed runs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import EVERY_STEP, TINY, run, share_kernels, tensors
from support.runs import PERSONAL, ROOT
from support.slurm import slurm_cluster

# 48 steps of 8 documents take at least 40 seconds, so that the cluster can interrupt a run several times.
PLUGIN = ("plugins=[sleepy]", "head._target_=sleepy.SleepyHead")
SETTINGS = (*TINY, *PLUGIN, EVERY_STEP, "epochs=4", "data.test_limit=16", "data.validation_limit=16")
PLUGINS = str(ROOT / "tests" / "support" / "plugins")

pytestmark = [pytest.mark.slow, pytest.mark.needs("slurm")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a cluster, and return the environment variables of a user with empty folders."""
    home = tmp_path_factory.mktemp("home")
    share_kernels(home / "cache")
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as variables:
        kept = {name: value for name, value in variables.items() if not name.startswith(PERSONAL)}
        yield {**kept, "HOME": str(home), "IMDBCLS_CACHE": str(home / "cache"), "PYTHONPATH": PLUGINS}


def jobs(environment: dict[str, str], state: str) -> list[str]:
    """Return the ids of the jobs in a state, such as R (running)."""
    command = ["squeue", "--noheader", "--format=%i", f"--states={state}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def step_of(run_folder: Path) -> int:
    try:
        return int(json.loads((run_folder / "checkpoints/last/state.json").read_text())["train"]["step"])
    except (OSError, ValueError, KeyError):
        return -1


def log_of(folder: Path, suffix: str) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"runs/*/.submitit/*/*_log.{suffix}")))


def same_weights(run_folder: Path, undisturbed: Path) -> bool:
    best = Path("checkpoints/best/model.safetensors")
    return tensors(run_folder / best) == tensors(undisturbed / "runs/default" / run_folder.name / best)


def test_preempted_and_timed_out_jobs_end_like_undisturbed_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """Both jobs reach their time limit; one is also preempted by `scontrol requeue`."""
    launcher = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=30",
        "hydra.launcher.max_num_timeout=20",
        "hydra.launcher.cpus_per_task=1",
    ]
    command = [sys.executable, "-m", "imdbcls.train", "--multirun", "seed=0,1", *SETTINGS, *launcher]
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    sweep = subprocess.Popen(
        command, cwd=cluster, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        limit = time.monotonic() + 400
        preempted = ""
        while sweep.poll() is None:
            assert time.monotonic() < limit, log_of(cluster, "err")
            first = next(iter(cluster.glob("runs/default/*-s0-*")), None)
            running = [job for job in jobs(environment, "R") if job.endswith("_0")]
            if not preempted and first is not None and running and 3 <= step_of(first) < 40:
                preempted = running[0]
                subprocess.run(["scontrol", "requeue", preempted], env=environment, check=True)
            time.sleep(0.5)
        output = sweep.communicate()[0]
    finally:
        sweep.kill()
        for job in jobs(environment, "all"):
            subprocess.run(["scancel", job], env=environment, check=False)
    assert sweep.returncode == 0, output + log_of(cluster, "err")
    messages, submitit = log_of(cluster, "err"), log_of(cluster, "out")
    assert preempted and "DUE TO JOB REQUEUE" in messages
    assert messages.count("Continuing at step") >= 2
    assert submitit.count("this job is timed-out") >= 2 and submitit.count("Job completed successfully") == 2

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    threads = {"THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": PLUGINS}
    for seed in (0, 1):
        run(undisturbed, f"seed={seed}", *SETTINGS, environment=threads)
    runs = sorted(path for path in cluster.glob("runs/default/*-s*") if path.is_dir())
    assert len(runs) == 2
    for each in runs:
        assert json.loads((each / "result.json").read_text())["status"] == "done"
        assert same_weights(each, undisturbed)
