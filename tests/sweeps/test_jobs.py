"""What happens to the other jobs of a sequential or parallel multirun if one job fails, is killed or gets a signal."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from support.faults import FAULTY, faulty
from support.processes import (
    EVERY_STEP,
    TINY,
    Command,
    digest,
    points,
    run,
    saved_step,
    start,
    wait_before_step,
    wait_for,
    wait_for_runs,
)

from imdbcls.runtime.signals import SIGNALS, StopRequest, stop_requests
from imdbcls.sweeps.jobs import Outcome, Running, Sweep


def sweep(folder: Path, *options: str, fault: str = "") -> Command:
    """Run five jobs with different dropout. The second job has the fault. Return the ended command."""
    arguments = ("--multirun", *TINY, *FAULTY, "+head.only_dropout=0.2", "head.dropout=0.1,0.2,0.3,0.4,0.5", "epochs=1")
    command = start(folder, *arguments, *options, environment=faulty(fault, at=8))
    command.wait()
    return command


@pytest.mark.parametrize(
    ("fault", "state", "reason", "jobs"),
    (
        ("raise", "failed", "ZeroDivisionError: the second job's own mistake", 1),
        ("exit", "failed", "exit code 7", 1),
        ("kill", "killed", "by SIGKILL", 1),
        ("kill", "killed", "by SIGKILL", 2),
    ),
)
def test_one_of_five_jobs_fails_and_the_command_resumes_it(
    fault: str, state: str, reason: str, jobs: int, tmp_path: Path
) -> None:
    command = sweep(tmp_path, EVERY_STEP, f"jobs={jobs}", fault=fault)
    assert command.process.exitcode == 1
    *table, conclusion = command.output.splitlines()[-6:]
    assert [line.split()[1] for line in table] == ["done", state, "done", "done", "done"]
    assert reason in table[1]
    assert "1 of 5 runs are not done" in conclusion

    again = sweep(tmp_path, EVERY_STEP)
    assert again.process.exitcode == 0
    *table, advice = again.output.splitlines()[-6:]
    assert [line.split()[1] for line in table] == ["done"] * 5
    assert re.fullmatch(r"Compare the runs: python -m imdbcls\.compare runs/\w+", advice)
    assert again.output.count("is already done") == 4
    (step,) = re.findall(r"Continuing at step (\d+) ", again.output)
    assert int(step) in ((5, 6, 7) if fault == "kill" else (7,))  # up to two checkpoints may not be written yet

    skipping = sweep(tmp_path)
    assert skipping.output.count("is already done") == 5
    assert skipping.cpu_seconds < 5  # about a second per job, including the start of the command


def test_job_with_unreadable_data_does_not_stop_other_jobs(tmp_path: Path) -> None:
    """A missing file is reported before any job starts. Invalid content is reported by the job that reads it."""
    rows = [f"{index},word{index} {'good' if index % 2 else 'bad'} film,{index % 2}" for index in range(60)]
    (tmp_path / "good.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    (tmp_path / "broken.csv").write_text("id,text,label\n0,a film\n")
    arguments = ("--multirun", *TINY, "data=files", "data.train_limit=16", "epochs=1")
    refused = start(tmp_path, *arguments, "data.train=missing.csv,good.csv,good.csv", "seed=0,1")
    assert refused.wait() == 2
    assert "data.train=missing.csv does not exist" in refused.output and not (tmp_path / "runs").exists()
    command = start(tmp_path, *arguments, "data.train=broken.csv,good.csv,good.csv", "seed=0,1")
    assert command.wait() == 1
    table = command.output.splitlines()[-7:-1]
    assert [line.split()[1] for line in table] == ["failed", "failed", "done", "done", "done", "done"]
    assert "broken.csv, line 2: expected 3 fields" in table[1]
    assert "Traceback" not in command.output


def test_a_signal_ends_a_sweep_after_its_job_has_saved(tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, EVERY_STEP, "seed=0,1,2")
    command = start(tmp_path, *arguments, prepare=partial(wait_before_step, 8))
    assert wait_for(lambda: saved_step(tmp_path) >= 3, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    table = command.output.splitlines()[-4:-1]
    assert [line.split("  ")[1].strip() for line in table] == ["interrupted", "not started", "not started"]
    assert "Continuing at step" in run(tmp_path, *arguments).output


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_sweep_leaves_no_jobs(jobs: int, tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, EVERY_STEP, "seed=0,1", f"jobs={jobs}")
    command = start(tmp_path, *arguments, prepare=partial(wait_before_step, 8))
    assert wait_for(lambda: runs_begun(tmp_path) == jobs, command)
    command.kill()
    again = run(tmp_path, *arguments)
    assert "is in use by" not in again.output and again.output.count("Continuing at step") == jobs


def runs_begun(folder: Path) -> int:
    """Return the number of runs that have saved a checkpoint."""
    return len(list(folder.glob("runs/default/*/checkpoints/last/manifest.json")))


def test_parallel_jobs_share_threads_and_match_sequential_jobs(tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, "head=cls,lstm", "epochs=4", "progress=plain")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    run(alone, *arguments)  # uses one thread
    command = start(together, *arguments, "jobs=2", environment={"THREADS": "2"}, prepare=partial(wait_for_runs, 2))
    assert command.wait() == 0
    runs = sorted((alone / "runs/default").glob("*-s*"))
    assert len(runs) == 2
    for one in runs:
        other = together / "runs/default" / one.name  # the number of jobs does not change the run's name
        for file in ("checkpoints/best/model.safetensors", "predictions/test.parquet"):
            assert digest(one / file) == digest(other / file)
        assert points(one) == points(other)
    first, *messages, _, _ = [line for line in command.output.splitlines() if line]
    assert first == "2 runs, 2 at a time: loading the modules and the documents"
    names = [one.name for one in runs]
    assert all(line.startswith((*names, "[1/2] ", "[2/2] ", "Choose a configuration by its val")) for line in messages)
    assert command.output.count("on CPU, 1 thread") == 2
    ends = [at for at, line in enumerate(messages) if line.startswith("[") and "test" in line]
    second_begins = [at for at, line in enumerate(messages) if "on CPU" in line][1]
    assert second_begins < ends[0]


def test_signal_ends_all_parallel_jobs(tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, EVERY_STEP, "seed=0,1,2", "jobs=2")
    command = start(tmp_path, *arguments, prepare=partial(wait_before_step, 8))
    assert wait_for(lambda: runs_begun(tmp_path) == 2, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    table = command.output.splitlines()[-4:-1]
    assert [line.split("  ")[1].strip() for line in table] == ["interrupted", "interrupted", "not started"]
    assert run(tmp_path, *arguments).output.count("Continuing at step") == 2


def test_two_concurrent_sweeps_share_no_run_folder(tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, "seed=0,1,2", "epochs=1")
    both = [start(tmp_path, *arguments) for _ in range(2)]
    codes = [command.wait() for command in both]
    messages = "".join(command.output for command in both)
    assert "Traceback" not in messages
    assert set(codes) <= {0, 1}
    run(tmp_path, *arguments)  # runs that both sweeps have skipped are trained now
    folders = [folder for folder in tmp_path.glob("runs/default/*") if folder.is_dir()]
    assert len(folders) == 3
    for folder in folders:
        assert json.loads((folder / "result.json").read_text())["status"] == "done"
        assert points(folder)[-1]["step"] == 12
        assert len({point["step"] for point in points(folder)}) == len(points(folder))


# The class Sweep


def test_a_signal_for_a_job_that_has_just_ended_stops_the_sweep() -> None:
    job = subprocess.Popen([sys.executable, "-c", ""])
    job.wait()
    sweep = Sweep()
    sweep._running[job.pid] = Running(0, 0, 0, lambda: None, 0.0, progress=None)
    sweep._forward_signal(signal.SIGTERM, None)
    assert sweep.stopped_by == signal.SIGTERM


@pytest.mark.parametrize("moment", ["after the fork", "as the preparation ends"])
def test_signal_around_the_fork_reaches_the_job_or_prevents_it(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def fork_and_signal() -> int:
        child = fork()
        if child:
            os.kill(os.getpid(), signal.SIGTERM)  # blocked until the child's process id is known
        return child

    def stop_and_signal(request: StopRequest) -> None:
        request._interruptible = False
        os.kill(os.getpid(), signal.SIGTERM)

    if moment == "after the fork":
        monkeypatch.setattr(os, "fork", fork_and_signal)
    else:
        monkeypatch.setattr(StopRequest, "raise_if_requested", lambda request: None)
        monkeypatch.setattr("imdbcls.sweeps.jobs.stop_requests", requests_that_end_by(stop_and_signal))
    before = [signal.getsignal(number) for number in SIGNALS]
    sweep = Sweep()
    sweep.run("first", lambda: None, lambda: time.sleep(3600), lambda: None)
    sweep.run("second", lambda: None, lambda: None, lambda: None)
    assert sweep.stopped_by == signal.SIGTERM
    first = ("killed", "by SIGTERM") if moment == "after the fork" else ("not started", "the sweep was stopped")
    assert [(outcome.state, outcome.detail) for outcome in sweep.outcomes] == [
        first,
        ("not started", "the sweep was stopped"),
    ]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def requests_that_end_by(act: Callable[[StopRequest], None]) -> Callable[[], AbstractContextManager[StopRequest]]:
    @contextlib.contextmanager
    def requests() -> Iterator[StopRequest]:
        with stop_requests() as request:
            yield request
            act(request)

    return requests


def slept(times: Sequence[float], jobs: int) -> tuple[list[Outcome], float]:
    """Return the outcomes of jobs that sleep for `times`, in seconds, and the wall time of the sweep."""
    sweep, began = Sweep(), time.monotonic()
    for number, seconds in enumerate(times):
        sweep.run(f"job {number}", lambda: None, lambda seconds=seconds: time.sleep(seconds), lambda: None, jobs)
    sweep.wait()
    return sweep.outcomes, time.monotonic() - began


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_wall_time_of_each_job_is_recorded(jobs: int) -> None:
    outcomes, elapsed = slept((0.1, 0.5), jobs)
    short, long = (outcome.seconds for outcome in outcomes)
    assert short is not None and long is not None
    assert short >= 0.1 and long >= 0.5
    assert max(short, long) <= elapsed and (jobs == 2 or short + long <= elapsed)


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_parallel_jobs_share_the_wall_time(jobs: int) -> None:
    """With `jobs=8` and two jobs, half of the time belongs to each job, not an eighth."""
    outcomes, elapsed = slept((0.2, 0.6), jobs)
    short, long = (outcome.share or 0.0 for outcome in outcomes)
    assert 0.6 <= short + long <= elapsed
    assert long >= (0.6 if jobs == 1 else 0.5 * 0.2 + 0.4) - 0.05
    assert short >= (0.2 if jobs == 1 else 0.5 * 0.2)


def test_failed_fork_is_recorded_as_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    sweep = Sweep()
    sweep.run("only", lambda: None, lambda: None, lambda: None)
    assert [(outcome.name, outcome.state) for outcome in sweep.outcomes] == [("only", "failed")]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)


def test_jobs_without_multirun_warns_of_no_effect(tmp_path: Path) -> None:
    assert "jobs=2 has no effect" in run(tmp_path, *TINY, "epochs=1", "jobs=2").output
