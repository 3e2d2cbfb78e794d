"""Data-parallel training in real processes: the same losses as one process, exact resume, and lost processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.limits import HANG_SECONDS
from support.processes import (
    EVERY_STEP,
    TINY,
    Command,
    fingerprint,
    points,
    run,
    run_folder,
    saved_step,
    share_kernels,
    start,
    wait_before_step,
    wait_for,
)
from support.runs import PERSONAL

from imdbcls.runs.read_predictions import read_predictions
from imdbcls.runs.record import path_of_predictions
from imdbcls.runtime.distributed import Processes, ProcessLostError, explained

# 90 training documents make 11 batches of 8 documents and one batch of 2, which 4 processes cannot share evenly.
SETTINGS = (*TINY, "data.train_limit=90", "trainer.log_every=1")
WITHOUT_DROPOUT = ("backbone.dropout=0", "head.dropout=0")


def process_variables(num_processes: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def start_processes(folder: Path, num_processes: int, *arguments: str, last_step: int | None = None) -> list[Command]:
    """Start the processes of one run as torchrun does, with `folder` as their working directory.

    After `last_step`, the last process waits for a signal, and the other processes wait for the last process.
    """
    folder.mkdir(exist_ok=True)
    *first, last = process_variables(num_processes)
    commands = [start(folder, *arguments, environment=each) for each in first]
    prepare = None if last_step is None else partial(wait_before_step, last_step + 1)
    return [*commands, start(folder, *arguments, environment=last, prepare=prepare)]


def run_processes(folder: Path, num_processes: int, *arguments: str) -> list[Command]:
    """Run the processes of one run, all of which must succeed."""
    commands = start_processes(folder, num_processes, *arguments)
    assert [command.wait() for command in commands] == [0] * num_processes, "\n".join(map(lambda c: c.output, commands))
    return commands


def numbers(folder: Path, name: str) -> list[float]:
    return [point[name] for point in points(run_folder(folder)) if name in point]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((run_folder(folder) / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("trainer.micro_batch_size=2", "trainer.ema_decay=0.9"),
        ("head=lstm", "backbone.freeze=true"),
        ("trainer.head_first_epochs=1",),
    ],
)
def test_the_number_of_processes_does_not_change_the_losses(tmp_path: Path, options: tuple[str, ...]) -> None:
    arguments = (*SETTINGS, *WITHOUT_DROPOUT, *options)
    (tmp_path / "one").mkdir()
    run(tmp_path / "one", *arguments)
    for num_processes in (2, 4):
        folder = tmp_path / str(num_processes)
        run_processes(folder, num_processes, *arguments)
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            np.testing.assert_allclose(numbers(folder, name), numbers(tmp_path / "one", name), rtol=1e-5, atol=1e-5)
        assert len(numbers(folder, "train/loss")) == 24
        one, several = result(tmp_path / "one"), result(folder)
        assert several["test/loss"] == pytest.approx(one["test/loss"], abs=1e-5)
        assert several["best_epoch"] == one["best_epoch"] and several["steps"] == one["steps"]
        assert several["environment"]["processes"] == str(num_processes) and "processes" not in one["environment"]
        for split in ("validation", "test"):
            ids = [
                read_predictions(path_of_predictions(run_folder(path), split)).ids.tolist()
                for path in (tmp_path / "one", folder)
            ]
            assert ids[0] == ids[1] and len(set(ids[0])) == len(ids[0])


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_command_continues_exactly(tmp_path: Path) -> None:
    arguments = (*SETTINGS, EVERY_STEP, "epochs=3")
    run_processes(tmp_path / "undisturbed", 2, *arguments)
    folder = tmp_path / "killed"
    main, other = start_processes(folder, 2, *arguments, last_step=8)
    assert wait_for(lambda: saved_step(folder) >= 5, main)
    other.kill()
    assert main.wait() == 2
    assert "Another process of this run has ended" in main.output and "Traceback" not in main.output
    assert result(folder)["status"] == "failed"
    main, _ = run_processes(folder, 2, *arguments)
    assert "Continuing at step" in main.output
    assert fingerprint(folder) == fingerprint(tmp_path / "undisturbed")


KILLED = """
import os, runpy, signal, sys
from imdbcls.runtime.distributed import Processes
Processes.agreement = lambda processes: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("imdbcls.train", run_name="__main__")
"""


@pytest.mark.slow
def test_a_process_killed_while_another_locks_the_folder(tmp_path: Path) -> None:
    variables = process_variables(2)
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, *SETTINGS], env={**os.environ, **variables[1]}, cwd=tmp_path
    )
    try:
        main = start(tmp_path, *SETTINGS, environment=variables[0])
        assert main.wait() == 2
        assert killed.wait(HANG_SECONDS) == -signal.SIGKILL
    finally:
        killed.kill()
    assert "Another process of this run has ended" in main.output and "Traceback" not in main.output


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    arguments = (*SETTINGS, EVERY_STEP, "epochs=3")
    run_processes(tmp_path / "undisturbed", 2, *arguments)
    folder = tmp_path / "stopped"
    commands = start_processes(folder, 2, *arguments, last_step=8)
    assert wait_for(lambda: saved_step(folder) >= 5, commands[0])
    commands[1].signal(signal.SIGTERM)
    assert [command.wait() for command in commands] == [128 + signal.SIGTERM] * 2
    assert result(folder)["status"] == "interrupted"
    run_processes(folder, 2, *arguments)
    assert fingerprint(folder) == fingerprint(tmp_path / "undisturbed")


STOPPED = """
import runpy
from imdbcls.runs import result
from imdbcls.tracking import Trackers
result.MAIN_SECONDS = 600
close = Trackers.__exit__
def stopped(self, kind, error, trace):
    error.stopped_by = "W&B"
    return close(self, kind, error, trace)
Trackers.__exit__ = stopped
runpy.run_module("imdbcls.train", run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_that_wandb_stops_in_a_sweep_ends_without_an_error(tmp_path: Path) -> None:
    """Only the main process has a tracker, but torchrun reports an error if any process fails."""
    command = [sys.executable, "-c", STOPPED, *SETTINGS, "epochs=5000"]
    processes = [
        subprocess.Popen(command, env={**os.environ, **each, "WANDB_SWEEP_ID": "abcd"}, cwd=tmp_path)
        for each in process_variables(2)
    ]
    try:
        deadline = time.monotonic() + HANG_SECONDS
        while not any(path.stat().st_size > 0 for path in tmp_path.glob("runs/*/*/metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for process in processes:
            process.terminate()
        assert [process.wait(HANG_SECONDS) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert result(tmp_path)["status"] == "stopped"


@pytest.mark.slow
def test_another_number_of_processes_may_continue_a_run(tmp_path: Path) -> None:
    commands = start_processes(tmp_path, 2, *SETTINGS, EVERY_STEP, last_step=8)
    assert wait_for(lambda: saved_step(tmp_path) >= 5, commands[0])
    for command in commands:
        command.signal(signal.SIGTERM)
    assert [command.wait() for command in commands] == [128 + signal.SIGTERM] * 2
    again = run(tmp_path, *SETTINGS, EVERY_STEP)
    assert "processes 2 → not recorded" in again.output
    assert any("processes 2" in change for change in result(tmp_path)["changes"])


@pytest.mark.slow
def test_an_error_is_shown_once_and_ends_all(tmp_path: Path) -> None:
    commands = start_processes(tmp_path, 2, *SETTINGS, "data=files", "data.train=missing.csv")
    assert [command.wait() for command in commands] == [2, 2]
    assert "missing.csv" in commands[0].output and commands[1].output == ""
    (tmp_path / "same.csv").write_text("text,label\n" + "".join(f"review {row},good\n" for row in range(40)))
    commands = start_processes(tmp_path, 2, *SETTINGS, "data=files", "data.train=same.csv")
    assert [command.wait() for command in commands] == [2, 2]
    assert "good" in commands[0].output and commands[1].output == ""
    assert not list(tmp_path.glob("runs/*/*"))


BUILDING = """
import sys, torch
from imdbcls.errors import UserError
from imdbcls.runtime.distributed import joined_processes
with joined_processes("cpu") as processes, processes.agreement():
    if processes.rank == int(sys.argv[1]):
        raise UserError("the disk is full")
    processes.parallel(torch.nn.Linear(2, 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_while_it_builds_the_run_ends_all(failing: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDING, str(failing)],
            env={**os.environ, **each},
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in process_variables(2)
    ]
    try:
        errors = [process.communicate(timeout=HANG_SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode != 0 for process in processes)
    assert "the disk is full" in errors[failing]
    assert ("ProcessLostError: Process 1 of 2 has failed" in errors[0]) == (failing == 1)
    assert "Error" not in errors[1] or failing == 1


FULL = """NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error, NCCL version 2.27.5
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-1 (size 9637888), error: No space left on device (28)
"""


def test_an_error_of_nccl_keeps_its_reason() -> None:
    reason = r"\(Error while creating shared memory segment /dev/shm/nccl-1 .*No space left on device \(28\)\)"
    with pytest.raises(ProcessLostError, match=reason), explained(Processes(0, 2)):
        raise RuntimeError(FULL)


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """Test the launcher itself with one run, with the same command again, and with a sweep, which is refused."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
    environment = {**kept, "HOME": str(tmp_path), "IMDBCLS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    share_kernels(tmp_path / "cache")

    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*launcher, "-m", "imdbcls.train", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
        )

    done = torchrun(*SETTINGS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("validation accuracy") == 1 and "in 2 processes" in done.stderr
    assert "Nothing was run" in torchrun(*SETTINGS).stderr
    refused = torchrun(*SETTINGS, "--multirun", "head=cls,lstm")
    assert refused.returncode != 0 and refused.stderr.count("Start this command without torchrun") == 1


def test_one_process_communicates_with_nobody() -> None:
    alone = Processes()
    assert alone.is_main and alone.largest(7) == 7
    model = object()
    assert alone.parallel(model) is model  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError), alone.agreement(), alone.main_first():
        raise ZeroDivisionError
