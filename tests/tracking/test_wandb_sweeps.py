"""W&B sweeps with the real `wandb sweep` and `wandb agent`: a grid, interrupted runs, and runs that W&B stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_wandb import PATIENT, FakeWandb
from support.fake_wandb import sweeps as scheduler
from support.fake_wandb.store import Run, Store
from support.limits import HANG_SECONDS
from support.processes import TINY, start, wait_for
from support.runs import ROOT, Launch, isolated

SWEEPS = ROOT / "experiments/wandb_sweep"
TRACKED = ("tracker=wandb", *PATIENT, "trainer.log_every=1")
SMALL = (*(each for each in TINY if not each.startswith(("lr=", "epochs="))), *TRACKED)


def definition(name: str, parameters: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    """Return a sweep of the repository with the given parameters, and with arguments for a tiny model."""
    sweep = yaml.safe_load((SWEEPS / name).read_text())
    *first, last = sweep["command"]
    assert last == "${args_no_hyphens}"
    return sweep | {"parameters": dict(parameters), "command": [*first, *SMALL, *arguments, last]}


class Agent:
    """`wandb sweep` and then `wandb agent`, in a folder of their own."""

    def __init__(self, sweep: Mapping[str, Any], server: FakeWandb, folder: Path) -> None:
        (folder / "sweep.yaml").write_text(yaml.safe_dump(dict(sweep)))
        python = Path(sys.executable).parent
        faster = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1", "PATH": f"{python}:{os.environ['PATH']}"}
        environment = isolated(folder / "home") | server.environment | faster | {"OMP_NUM_THREADS": "1"}
        environment["IMDBCLS_CACHE"] = str(folder / "cache")
        wandb = [sys.executable, "-m", "wandb"]
        created = subprocess.run(
            [*wandb, "sweep", "sweep.yaml"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        advised = re.search(r"wandb agent (\S+)", created.stderr)
        assert advised, created.stderr
        self.sweep = advised[1]
        self.log = folder / "agent.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*wandb, "agent", self.sweep], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> str:
        """Wait for the agent to end. Return the output of the agent and of its runs."""
        try:
            assert self.process.wait(HANG_SECONDS) == 0, self.log.read_text()
        finally:
            self.process.kill()
        return self.log.read_text()


def until(condition: Callable[[], Any], agent: Agent) -> Any:
    limit = time.monotonic() + HANG_SECONDS
    while not (found := condition()):
        assert time.monotonic() < limit and agent.process.poll() is None, agent.log.read_text()
        time.sleep(0.1)
    return found


def training(server: FakeWandb, num_steps: int = 3) -> Run | None:
    """Return a run that has sent `num_steps` records and has not ended, or None if there is none."""
    return next((run for run in server.runs() if run.state == "running" and len(run.history) >= num_steps), None)


def process_of(folder: Path) -> int:
    """Read the lock file of the only run, and return the id of the process that trains it."""
    (lock,) = folder.glob("runs/*/*/.lock")
    return int(lock.read_text().split()[1])


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/*/result.json")]


@pytest.mark.slow
def test_an_agent_trains_the_runs_of_a_grid(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    nested = {"parameters": {"head_lr": {"values": [2.0]}}}
    parameters = {"head": {"values": ["cls", "lstm"]}, "optimizer": nested, "lr": {"value": 3e-05}}
    agent = Agent(definition("grid.yaml", parameters, "epochs=1"), fake_wandb, tmp_path)
    output = agent.wait()
    (sweep,) = fake_wandb.sweeps()
    assert agent.sweep == f"someone/imdbcls/{sweep.name}" and sweep.state == "FINISHED"
    assert "gnoring" not in output, "the agent's own variables are not worth a warning"
    first, second = fake_wandb.runs()
    assert [run.values()["head"] for run in (first, second)] == ["cls", "lstm"]
    for run in (first, second):
        assert (run.name.startswith("swept"), run.sweep, run.state) == (True, sweep.name, "finished")
        assert (run.entity, run.project, run.group) == ("someone", "imdbcls", f"sweep-{sweep.name}")
        assert (run.values()["lr"], run.values()["optimizer"]["head_lr"]) == (3e-05, 2)
        (folder,) = tmp_path.glob(f"runs/sweep-{sweep.name}/{run.display_name}")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [point["step"] for point in run.points() if point["step"] > 0] == [line["step"] for line in lines]
    assert [result["status"] for result in results(tmp_path)] == ["done", "done"]
    assert fake_wandb.errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_that_is_handed_out_again_continues(
    blow: signal.Signals, fake_wandb: FakeWandb, tmp_path: Path
) -> None:
    """After a machine is preempted, W&B hands the run out again. The run continues under the id from the sweep."""
    parameters = {"seed": {"values": [0]}}
    arguments = ("epochs=30", "checkpoint.every_minutes=1e-9", "study=kept")
    agent = Agent(definition("grid.yaml", parameters, *arguments), fake_wandb, tmp_path)
    until(lambda: training(fake_wandb), agent)
    os.kill(process_of(tmp_path), blow)
    output = agent.wait()
    assert "Agent received command: resume" in output and "Continuing at step" in output
    (run,) = fake_wandb.runs()
    assert (run.state, run.exit_code, run.is_preempting) == ("finished", 0, False)
    steps = [point["step"] for point in run.points() if point["step"] > 0]
    assert steps == list(range(1, 361))
    (result,) = results(tmp_path)
    assert result["status"] == "done"


@pytest.mark.slow
def test_a_run_that_w_and_b_stops_is_recorded_and_the_agent_goes_on(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    parameters = {"seed": {"values": [0, 1]}}
    agent = Agent(definition("grid.yaml", parameters, "epochs=5000", "study=early"), fake_wandb, tmp_path)
    for _ in range(2):
        fake_wandb.stop(until(lambda: training(fake_wandb), agent))
        until(lambda: not any(run.is_stop_requested and run.state == "running" for run in fake_wandb.runs()), agent)
    output = agent.wait()
    assert [(run.state, run.exit_code, run.is_preempting) for run in fake_wandb.runs()] == [("finished", 0, False)] * 2
    assert [run.summary["status"] for run in fake_wandb.runs()] == ["stopped", "stopped"]
    for result in results(tmp_path):
        assert (result["status"], result["error"]) == ("stopped", "stopped by W&B")
    advice = re.findall(r"stopped by W&B\. To train the run to the end outside a sweep: (.*)", output)
    assert len(advice) == 2 and all(line.startswith("python -m imdbcls.train study=sweep") for line in advice)

    # Inside the sweep, the command does not train the stopped run further.
    repeated = subprocess.run(
        advice[0].replace("python", sys.executable, 1).split(),
        cwd=tmp_path,
        env=isolated(tmp_path / "home") | {"WANDB_SWEEP_ID": "sweep1", "IMDBCLS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert repeated.returncode == 0 and "not trained further in a sweep" in repeated.stderr


@pytest.mark.slow
def test_a_run_that_is_stopped_on_the_website_can_be_continued(fake_wandb: FakeWandb, tmp_path: Path) -> None:
    faster = fake_wandb.environment | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    arguments = (*SMALL, "lr=1e-3", "epochs=5000", "tracker.mode=online", "study=website")
    command = start(tmp_path, *arguments, environment=faster)
    assert wait_for(lambda: training(fake_wandb) is not None, command)
    fake_wandb.stop(fake_wandb.runs()[0])
    assert command.wait() == 128 + signal.SIGINT, command.output
    assert "W&B asks to stop the run" in command.output and "stopped by W&B" in command.output
    assert [result["status"] for result in results(tmp_path)] == ["stopped"]
    (run,) = fake_wandb.runs()
    assert (run.exit_code, run.summary["status"]) == (0, "stopped")
    steps = len(run.history)

    command = start(tmp_path, *arguments, environment=faster)  # the user continues the run
    assert wait_for(lambda: len(fake_wandb.runs()[0].history) > steps + 5, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert [result["status"] for result in results(tmp_path)] == ["interrupted"]
    (run,) = fake_wandb.runs()
    assert fake_wandb.steps(run) == list(range(fake_wandb.steps(run)[0], fake_wandb.steps(run)[-1] + 1))


# The scheduler of the fake server


def test_hyperband_stops_the_worse_half(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sweep = scheduler.upsert(store, {"projectName": "p", "config": (SWEEPS / "bayes.yaml").read_text()})
    for name, values in {"good": [0.7, 0.8], "poor": [0.6], "late": [0.5, 0.6]}.items():
        run = Run("someone", "p", name, sweep=sweep.name)
        run.history = [json.dumps({"step": step, "val/accuracy": value}) for step, value in enumerate(values)]
        store.runs[run.id] = run
    scheduler.request_early_stops(store, sweep)
    stopped = [run.name for run in store.runs.values() if run.is_stop_requested]
    assert stopped == ["late"], "after one epoch, only the best two of three continue"


@pytest.mark.parametrize("name", ["bayes", "grid"])
def test_sweeps_of_the_repository_are_valid_commands(
    name: str, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training command must accept the parameters that the server chooses."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    text = (SWEEPS / f"{name}.yaml").read_text()
    sweep = yaml.safe_load(text)
    assert f"wandb sweep experiments/wandb_sweep/{name}.yaml" in text
    assert sweep["metric"]["name"].startswith("val/"), "the test split must not select runs"
    assert ("early_terminate" in sweep) == (sweep["method"] == "bayes")
    command = create_sweep_command(sweep["command"])
    assert command[:5] == ["${env}", "python", "-m", "${program}", "study=sweep-abc"]
    assert command[-1] == "${args_no_hyphens}"
    for chosen, _ in zip(scheduler.choices(sweep), range(4), strict=False):
        passed = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
        arguments = [*command[4:-1], *passed["args_no_hyphens"]]
        launch(tmp_path, sweep["program"].removeprefix("imdbcls."), *arguments, "--cfg", "job", WANDB_SWEEP_ID="abc")


def test_there_is_no_other_sweep() -> None:
    assert sorted(path.name for path in SWEEPS.glob("*.yaml")) == ["bayes.yaml", "grid.yaml"]
