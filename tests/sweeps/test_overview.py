"""A sweep shows shared messages once, and a line with the number, the result and the time of each run."""

import logging
import os
import re
from pathlib import Path

import pytest
from support.runs import TINY, Launch

from imdbcls.sweeps import overview
from imdbcls.sweeps.overview import JobMessages, SharedMessages, seconds_left


def record(name: str, text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file", 1, text, None, None)


def test_message_is_new_only_once_in_all_processes() -> None:
    shared = SharedMessages()
    assert shared.is_new("one") and not shared.is_new("one")
    child = os.fork()
    if child == 0:
        os._exit(int(shared.is_new("one")) + 2 * int(shared.is_new("two")))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert not shared.is_new("two")


def test_errors_are_always_shown_and_progress_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(overview.time, "monotonic", lambda: now[0])
    shows = JobMessages(SharedMessages(), has_overview=True)
    error, step = record("imdbcls.x", "failed", logging.ERROR), record("imdbcls.runtime.progress", "epoch 1/3  step 1")
    assert shows(error) and shows(error)
    shown = []
    for _ in range(10):
        now[0] += 20.0
        shown.append(shows(step))
    assert shown == [False, False, True] * 3 + [False]
    closing = "imdbcls.training.closing"
    assert not shows(record(closing, "a: test accuracy")) and shows(record(closing, "a: bad", logging.WARNING))
    alone = JobMessages(SharedMessages(), has_overview=False)
    assert alone(record(closing, "a: test accuracy")) and alone(step) and alone(step)


@pytest.mark.parametrize(
    ("first_epoch", "expected"),
    [(60.0, [True] * 8), (59.0, [False] * 5 + [True] + [False] * 2)],
)
def test_short_epochs_are_shown_every_five_minutes(
    first_epoch: float, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(overview.time, "monotonic", lambda: now[0])
    shows, shown = JobMessages(SharedMessages(), has_overview=True), []
    now[0] += 1000.0  # slow loading
    for seconds in (first_epoch, *[61.0] * 7):  # the length of the first epoch decides
        now[0] += seconds
        epoch = record("imdbcls.runtime.progress.epochs", "epoch")
        epoch.epoch_seconds = seconds
        shown.append(shows(epoch))
    assert shown == expected


def test_time_left_is_shared_by_parallel_jobs() -> None:
    assert seconds_left([10.0, 20.0], num_left=4, jobs=2) == 30.0
    assert seconds_left([], num_left=4, jobs=2) is None
    assert seconds_left([10.0], num_left=0, jobs=1) is None


@pytest.mark.parametrize("jobs", (1, 2))
def test_multirun_shows_each_run_and_shared_messages_once(jobs: int, tmp_path: Path, launch: Launch) -> None:
    command = ("train", "--multirun", *TINY, "tracker=none", "head=cls,mean", "seed=0,1", f"jobs={jobs}", "epochs=1")
    messages = launch(tmp_path, *command).stderr
    at_a_time = {1: "", 2: ", 2 at a time"}[jobs]
    assert messages.splitlines()[0] == f"4 runs{at_a_time}: loading the modules and the documents"
    caption, *table, compare = messages.splitlines()[-6:]
    assert caption.startswith("Choose a configuration by its validation score.") and compare.startswith("Compare the")
    assert all(" done  validation " in line for line in table)
    ends = re.findall(
        r"^\[(\d)/4\] \S+  validation \d+\.\d\d%  test \d+\.\d\d%  \d+(?:\.\d)? s(  \(\d+(?:\.\d)? s left\))?$",
        messages,
        re.M,
    )
    assert [number for number, _ in ends] == ["1", "2", "3", "4"], "the number counts the runs that have ended"
    assert not ends[-1][1] and ends[0][1]
    if jobs == 1:  # parallel jobs may log a shared message at the same moment
        assert messages.count("are not read completely with max_length=64") == 1
        assert messages.count(" test documents, 2 classes") == 1
        assert messages.count("[1/4] ") == 2  # its start and its end
    for hidden in ("Launching", "#0", "next: ", "peak memory", "loading the documents"):
        assert hidden not in messages
