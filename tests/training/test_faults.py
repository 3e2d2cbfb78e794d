"""Runs under faults: signals, NaN, no memory, no disk space, and a locked run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support.faults import FAULTY, PLUGINS, WAITING, faulty, fill_disk_at_save
from support.limits import HANG_SECONDS
from support.processes import (
    EVERY_STEP,
    TINY,
    fingerprint,
    kill_at,
    points,
    run,
    run_folder,
    saved_step,
    start,
    wait_before_result,
    wait_before_step,
    wait_for,
)

from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.limits import explain, is_disk_full, is_out_of_memory
from imdbcls.runtime.signals import SIGNALS, stop_requests
from imdbcls.runtime.versions import git_commit
from imdbcls.training import checkpoint

pytestmark = pytest.mark.slow


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((run_folder(folder) / "result.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, *TINY)
    return folder


@pytest.fixture(scope="module")
def uninterrupted_faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working directory of an uninterrupted run with the faulty head, whose fault is switched off."""
    folder = tmp_path_factory.mktemp("faulty")
    run(folder, *TINY, *FAULTY, environment=PLUGINS)
    return folder


# Signals


@pytest.mark.parametrize(
    "numbers",
    (
        (signal.SIGTERM,),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT,),
        (signal.SIGUSR1,),
        (signal.SIGUSR2,),
        (signal.SIGUSR1, signal.SIGTERM),
    ),
    ids=lambda numbers: " ".join(signal.Signals(number).name for number in numbers),
)
def test_signal_stops_after_the_step_and_resume_is_exact(
    numbers: tuple[int, ...], tmp_path: Path, uninterrupted: Path
) -> None:
    command = start(tmp_path, *TINY, EVERY_STEP, prepare=partial(wait_before_step, 9))
    assert wait_for(lambda: saved_step(tmp_path) >= 5, command)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):  # the first signal may already have ended the command
            command.signal(number)
        time.sleep(0.05 if len(numbers) > 1 else 0)
    assert command.wait() == 128 + numbers[0]
    assert "Traceback" not in command.output
    assert "run the same command again to resume" in command.output
    result = result_of(tmp_path)
    assert result["status"] == "interrupted"
    assert signal.Signals(numbers[0]).name in str(result["error"])
    assert "Continuing at step" in run(tmp_path, *TINY, EVERY_STEP).output
    assert fingerprint(tmp_path) == fingerprint(uninterrupted)


def test_repeated_signals_do_not_kill_a_stopping_run(tmp_path: Path, uninterrupted: Path) -> None:
    command = start(tmp_path, *TINY, EVERY_STEP, prepare=partial(wait_before_step, 9))
    assert wait_for(lambda: saved_step(tmp_path) >= 5, command)
    while command.alive:
        with contextlib.suppress(ProcessLookupError):
            command.signal(signal.SIGTERM)
        time.sleep(0.001)
    assert command.wait() == 128 + signal.SIGTERM, command.output
    assert command.output.count("SIGTERM: ") == 1
    assert result_of(tmp_path)["status"] == "interrupted"
    run(tmp_path, *TINY, EVERY_STEP)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted)


@pytest.mark.parametrize("moment", ("validation", "test"))
def test_signal_interrupts_a_long_evaluation(moment: str, tmp_path: Path, uninterrupted_faulty: Path) -> None:
    arguments = (*TINY, *FAULTY)
    if moment == "test":  # the test split is evaluated after the last checkpoint
        command = start(tmp_path, *arguments, EVERY_STEP, environment=PLUGINS, prepare=wait_before_result)
        assert wait_for(lambda: bool(list(tmp_path.glob("runs/*/*/predictions"))), command)
        command.kill()
    command = start(tmp_path, *arguments, environment=faulty("slow scoring"))
    assert wait_for(lambda: WAITING in command.output, command)
    assert ("Continuing at step 24" in command.output) == (moment == "test")
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert result_of(tmp_path)["status"] == "interrupted"
    run(tmp_path, *arguments, environment=PLUGINS)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted_faulty)


def test_signal_interrupts_a_long_step(tmp_path: Path, uninterrupted_faulty: Path) -> None:
    command = start(tmp_path, *TINY, *FAULTY, environment=faulty("slow step", at=11))
    assert wait_for(lambda: WAITING in command.output, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert "Continuing at step 10 of 24" in run(tmp_path, *TINY, *FAULTY, environment=PLUGINS).output
    assert fingerprint(tmp_path) == fingerprint(uninterrupted_faulty)


@pytest.mark.parametrize("place", ("config.yaml", "backbone/config.json"))
def test_signal_during_preparation_is_recorded(place: str, tmp_path: Path) -> None:
    """The signal arrives before the first step, when the run folder already contains the given file."""
    command = start(tmp_path, *TINY, prepare=partial(wait_before_step, 1))
    assert wait_for(lambda: bool(list(tmp_path.glob(f"runs/*/*/{place}"))), command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert result_of(tmp_path)["status"] == "interrupted"


def test_signal_interrupts_the_latency_measurement(tmp_path: Path, uninterrupted_faulty: Path) -> None:
    command = start(tmp_path, *TINY, *FAULTY, environment=faulty("slow latency"))
    assert wait_for(lambda: WAITING in command.output, command)
    command.signal(signal.SIGUSR2)
    assert command.wait() == 128 + signal.SIGUSR2
    assert result_of(tmp_path)["status"] == "interrupted"
    run(tmp_path, *TINY, *FAULTY, environment=PLUGINS)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted_faulty)


def test_signal_handlers_do_not_change_in_other_threads() -> None:
    def listen() -> int | None:
        with stop_requests() as stop:
            return stop.signal_number

    before = [signal.getsignal(number) for number in SIGNALS]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(listen).result() is None
    assert [signal.getsignal(number) for number in SIGNALS] == before


# NaN, memory, disk space


def test_nan_loss_ends_the_run_with_an_error_message(tmp_path: Path, uninterrupted_faulty: Path) -> None:
    command = start(tmp_path, *TINY, *FAULTY, EVERY_STEP, environment=faulty("nan", at=17))
    assert command.wait() == 2
    message = command.output.splitlines()[-1]
    assert "Step 17 of 24, learning rate" in message and "the loss is nan" in message
    assert "Traceback" not in command.output
    assert result_of(tmp_path)["status"] == "failed" and "Step 17" in str(result_of(tmp_path)["error"])
    state = json.loads((run_folder(tmp_path) / "checkpoints/best/state.json").read_text())
    assert state["epoch"] == 1
    run(tmp_path, *TINY, *FAULTY, environment=PLUGINS)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted_faulty)


@pytest.mark.parametrize("kind", ("memory on cuda", "memory on the cpu"))
def test_out_of_memory_reduces_the_micro_batch(kind: str, tmp_path: Path) -> None:
    for name in ("asked", "halved", "killed"):
        (tmp_path / name).mkdir()
    asked, halved, killed = (tmp_path / name for name in ("asked", "halved", "killed"))
    run(asked, *TINY, *FAULTY, "trainer.micro_batch_size=2", environment=PLUGINS)
    command = run(halved, *TINY, *FAULTY, environment=faulty(kind))
    assert command.output.count("not enough memory for") == 2  # for 8 and then for 4 documents
    assert "continuing with 2." in command.output and "still uses all 8 documents" in command.output
    assert result_of(halved)["micro_batch_size"] == 2
    found, wanted = fingerprint(halved), fingerprint(asked)
    assert found["files"] == wanted["files"] and found["points"] == wanted["points"]

    for step in (6, 13):
        kill_at(killed, *TINY, *FAULTY, EVERY_STEP, step=step, environment=faulty(kind))
    again = run(killed, *TINY, *FAULTY, environment=faulty(kind))
    assert "not enough memory" not in again.output  # the resumed run starts with the smaller size
    assert fingerprint(killed) == found


def test_resource_errors_are_distinguished_from_other_errors() -> None:
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_disk_full(OSError(28, "No space left on device"))
    assert is_disk_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(2, "No such file")) and not is_disk_full(RuntimeError("os error 280"))
    assert explain(KeyError("a")) is None
    assert "reduce trainer.micro_batch_size" in str(explain(MemoryError()))


def lines_are_whole(folder: Path) -> bool:
    return bool(points(run_folder(folder)))


def checkpoint_step(folder: Path) -> int:
    """Return the step of the checkpoint `last`, whose files must match the manifest."""
    saved = run_folder(folder) / "checkpoints/last"
    for name, entry in json.loads((saved / "manifest.json").read_text())["files"].items():
        assert checkpoint.sha256(saved / name) == entry["sha256"]
    return json.loads((saved / "state.json").read_text())["train"]["step"]


def test_file_size_limit_ends_the_run_with_an_error_message(tmp_path: Path, uninterrupted: Path) -> None:
    kill_at(tmp_path, *TINY, EVERY_STEP, step=14)
    before = saved_step(tmp_path)
    command = start(
        tmp_path, *TINY, EVERY_STEP, file_limit=1_000_000
    )  # the weights are below the limit, the optimizer state is not
    assert command.wait() == 2
    assert "There is no space left to write" in command.output.splitlines()[-1]
    assert "Traceback" not in command.output
    assert lines_are_whole(tmp_path) and checkpoint_step(tmp_path) >= before - 1
    assert result_of(tmp_path)["status"] == "failed"
    run(tmp_path, *TINY)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    assert mounted.returncode == 0, mounted.stderr
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.needs("mount")
def test_full_disk_leaves_checkpoint_and_log_intact(small_disk: Path, uninterrupted: Path) -> None:
    filler = small_disk / "filler"
    command = start(small_disk, *TINY, EVERY_STEP, prepare=partial(fill_disk_at_save, 17, filler))
    assert command.wait() == 2
    assert "Traceback" not in command.output
    assert "There is no space left to write" in command.output
    assert lines_are_whole(small_disk) and checkpoint_step(small_disk) >= 13
    filler.unlink()
    run(small_disk, *TINY)
    assert fingerprint(small_disk) == fingerprint(uninterrupted)


def test_no_disk_space_for_predictions(tmp_path: Path, uninterrupted_faulty: Path) -> None:
    command = start(tmp_path, *TINY, *FAULTY, environment=PLUGINS, prepare=wait_before_result)
    assert wait_for(lambda: bool(list(tmp_path.glob("runs/*/*/predictions"))), command)
    command.kill()
    shutil.rmtree(run_folder(tmp_path) / "predictions")
    (run_folder(tmp_path) / "result.json").unlink(missing_ok=True)
    command = start(tmp_path, *TINY, *FAULTY, environment=faulty("no room"))
    assert command.wait() == 2
    assert "Continuing at step 24" in command.output and "Traceback" not in command.output
    assert "There is no space left to write" in command.output.splitlines()[-1]
    assert result_of(tmp_path)["status"] == "failed"
    assert not list((run_folder(tmp_path) / "predictions").iterdir())
    run(tmp_path, *TINY, *FAULTY, environment=PLUGINS)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted_faulty)


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for place in ("taken", "/proc/runs"):
        command = start(tmp_path, *TINY, f"runs_dir={place}")
        assert command.wait() == 2
        assert f"{place}/default/cls-s0" in command.output and "Choose another runs_dir" in command.output
        assert "Traceback" not in command.output


def test_run_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_commit.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
    git_commit.cache_clear()


# Locks


def test_run_has_one_owner_and_lock_of_dead_process_is_released(tmp_path: Path, uninterrupted: Path) -> None:
    owner = start(tmp_path, *TINY, EVERY_STEP, prepare=partial(wait_before_step, 6))
    assert wait_for(lambda: saved_step(tmp_path) >= 2, owner)
    other = start(tmp_path, *TINY, EVERY_STEP, environment={"SLURM_STEP_NUM_TASKS": "2"})
    assert other.wait() == 2
    assert f"is in use by process {owner.process.pid} on " in other.output.splitlines()[-1]
    assert other.output.endswith(
        "srun started this command 2 times. Start it only once, or set a different seed for each task.\n"
    )
    owner.kill()
    run(tmp_path, *TINY)
    assert fingerprint(tmp_path) == fingerprint(uninterrupted)


def test_two_processes_build_the_token_cache_together(tmp_path: Path, uninterrupted: Path) -> None:
    commands = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        commands.append(start(tmp_path / name, *TINY, environment={"IMDBCLS_CACHE": str(tmp_path / "cache")}))
    for name, command in zip(("first", "second"), commands, strict=True):
        assert command.wait() == 0, command.output
        assert fingerprint(tmp_path / name) == fingerprint(uninterrupted)
    entries = sorted((tmp_path / "cache/tokens").iterdir())
    assert len(entries) == 3 and not [entry for entry in entries if entry.name.startswith(".")]


# The command itself


def test_command_line(tmp_path: Path) -> None:
    """Start a run in a new interpreter, as a user does, and stop it with SIGUSR1, as Slurm does."""
    environment = {**os.environ, "IMDBCLS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "imdbcls.train", *TINY, EVERY_STEP, "epochs=3000"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + HANG_SECONDS
    while saved_step(tmp_path) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    _, logged = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 128 + signal.SIGUSR1, logged
    assert RunFolder(run_folder(tmp_path)).finished() is None
    assert result_of(tmp_path)["status"] == "interrupted"
