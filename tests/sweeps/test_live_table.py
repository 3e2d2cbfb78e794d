"""The live table of parallel jobs: what it reads, how narrow it can be, and how a sweep looks on a terminal."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from support import terminals
from support.limits import HANG_SECONDS
from support.runs import TINY

from imdbcls.sweeps.live_table import JobLines, LiveTable, RunProgress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROWS = [
    ("cls-s0-01dee62b", "epoch 2/6", " 29 %", "loss 0.6775", "val 50.00%", "13 s"),
    ("mean-s11-68c57cf1", "starting", "", "", "", "60 min"),
]


def test_progress_is_read_from_a_growing_and_a_truncated_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    progress = RunProgress(path, epochs=4, metric="accuracy")
    assert progress.cells() == ("starting", "", "", "")
    path.write_text(json.dumps({"step": 1, "epoch": 0.5, "train/loss": 0.7}) + '\n{"step": 2, "epo')
    assert progress.cells() == ("epoch 1/4", " 12 %", "loss 0.7000", "")
    with path.open("a") as file:
        file.write('ch": 1.0, "val/accuracy": 0.625}\nnot JSON\n{"step": 3, "epoch": 1.5, "train/loss": 0.6}\n')
    assert progress.cells() == ("epoch 2/4", " 38 %", "loss 0.6000", "val 62.50%")
    path.write_text('{"step": 1, "epoch": 0.25}\n')
    assert progress.cells() == ("epoch 1/4", "  6 %", "", "")
    with path.open("a") as file:
        file.write('{"step": 16, "epoch": 4.0, "train/loss": 0.5, "val/accuracy": 0.7}\n')
    assert progress.cells()[:2] == ("epoch 4/4", "100 %")


@pytest.mark.parametrize("width", [1, 7, 20, 30, 44, 60, 77, 200])
def test_narrow_terminals_leave_out_columns(width: int) -> None:
    lines = JobLines(ROWS).lines(width)
    assert len(lines) == 2 and max(map(len, lines)) <= max(width, 1)
    if width == 200:
        assert lines[0] == "cls-s0-01dee62b    epoch 2/6   29 %  loss 0.6775  val 50.00%  13 s"
    if width == 44:
        assert "val 50.00%" in lines[0] and "loss" not in lines[0]


def test_messages_of_jobs_are_written_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = LiveTable()
    child = os.fork()
    if child == 0:
        table.redirect_stderr()
        os.write(2, b"a-s0: warning: one\na-s0: tw")
        os.write(2, "o \x1b[2J é\n".encode() + b"\xff no end")
        os._exit(0)
    os.waitpid(child, 0)
    table.wait(0.0, [])
    table.close()
    assert capsys.readouterr().err == "a-s0: warning: one\na-s0: two \\x1b[2J é\n\ufffd no end\n"


def test_a_job_that_writes_much_does_not_wait_for_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = LiveTable()
    child = os.fork()
    if child == 0:
        table.redirect_stderr()
        for number in range(20_000):
            os.write(2, b"line %06d\n" % number)
        os._exit(0)
    deadline = time.monotonic() + HANG_SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == child, "the job waits until its output is read"
    table.relay()
    table.close()
    assert capsys.readouterr().err.splitlines() == [f"line {number:06d}" for number in range(20_000)]


@pytest.mark.slow
def test_a_sweep_with_two_jobs_shows_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "imdbcls.train", "--multirun", *TINY, "tracker=none", "head=cls,mean", "jobs=2"]
    output = terminals.on_terminal(command, 60)
    text = ESCAPES.sub("", output)
    painted = re.findall(r"(?:cls|mean)-s0-\w+…?  (?:starting|epoch \d/2)[^\r\n]*", text)
    assert len(painted) >= 2 and max(map(len, painted)) <= 57
    ends = re.findall(r"\[\d/2\] (?:cls|mean)-s0-\w{8}  validation \d+\.\d\d%  test ", text)
    assert len(ends) == 2
    assert re.search(r"(cls-s0-\w+): warning: (?!\1)", text), "the warnings of a job are shown, with its name once"
    last = text.rindex("Compare the runs: ")
    assert not re.search("epoch|starting", text[last:]), "the table is removed at the end"
