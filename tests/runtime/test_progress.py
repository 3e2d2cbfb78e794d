"""The live line on a real pseudo-terminal, log lines in a pipe, and silenced libraries in a new process."""

import ast
import re
import subprocess
import sys

import pytest
from support import terminals
from support.runs import ROOT

from imdbcls.errors import UserError
from imdbcls.runtime import progress, row_progress
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.row_progress import RowProgress


class Clock:
    """A monotonic clock in seconds that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(row_progress, "time", clock)
    return clock


def train(shown: Progress, clock: Clock, first: int, last: int, seconds: float) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        if step % 10 == 0:
            shown.set_loss(1 / step)
            shown.set_speed(80.0)
        shown.step(step, 1)


def test_plain_lines_are_sparse_and_complete(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("plain")
    shown.start(100, num_epochs=1)
    train(shown, clock, 1, 100, seconds=2.0)
    for done in (100, 250):
        clock.now += 10.0
        shown.evaluating("validation", done, 250)
    shown.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 9  # the last step is logged with the epoch
    assert lines[0] == "epoch 1/1  step 10/100  10 %  loss 0.1000  80.0 documents/s  3.0 min left"
    assert lines[8] == "epoch 1/1  step 90/100  90 %  loss 0.0111  80.0 documents/s  20 s left"


def test_time_left_includes_evaluation(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first evaluation, an evaluation is assumed to take a third of the training time per document."""
    shown = Progress("plain")
    shown.start(40, num_epochs=2, batch_size=4, documents_to_evaluate=2 * 60 + 120)
    train(shown, clock, 1, 20, seconds=12.0)  # 3 seconds per document
    clock.now += 30.0
    shown.evaluating("validation", 60, 60)  # 0.5 seconds per document
    shown.log_epoch("epoch 1/2")
    train(shown, clock, 21, 30, seconds=12.0)
    lines = capsys.readouterr().err.splitlines()
    first, last = lines[0], lines[-1]
    assert first.startswith("epoch 1/2  step 4/40  10 %") and first.endswith("11 min left")  # 36 * 12 s + 240 * 1 s
    assert last.startswith("epoch 1/2  step 28/40  70 %") and last.endswith("3.9 min left")  # 12 * 12 s + 180 * 0.5 s
    assert "epoch 1/2" in lines


def test_stopped_training_reports_its_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("plain")
    shown.start(100)
    train(shown, clock, 1, 4, seconds=2.0)
    shown.close()
    assert capsys.readouterr().err == "step 4/100: 4 steps trained in 8 s\n"


def test_plain_lines_of_a_short_run_and_of_a_long_one(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("plain")
    shown.start(20)
    train(shown, clock, 1, 20, seconds=0.1)
    assert capsys.readouterr().err == ""
    shown.start(100_000)
    train(shown, clock, 1, 1_000, seconds=1.0)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_resumed_run_measures_only_its_own_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("plain")
    shown.start(100, start_step=50)
    train(shown, clock, 51, 60, seconds=3.0)
    clock.now += 1000.0  # evaluation does not count as training time
    shown.evaluating("validation", 10, 10)
    train(shown, clock, 61, 70, seconds=3.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("2.0 min left")
    shown.close()
    assert "20 steps trained in 60 s" in capsys.readouterr().err


def test_long_evaluation_logs_its_progress(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("plain")
    for done in range(0, 2600, 100):
        shown.for_split("test")(done, 2500)
        clock.now += 31.0
    assert capsys.readouterr().err.splitlines() == [
        "testing 1,000/2,500 documents",
        "testing 2,000/2,500 documents",
    ]


def test_none_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("none")
    shown.start(10)
    train(shown, clock, 1, 10, seconds=60.0)
    shown.evaluating("test", 5, 5)
    shown.close()
    assert capsys.readouterr() == ("", "")


def test_invalid_mode_is_reported() -> None:
    with pytest.raises(UserError, match=r"progress=loud .*auto, live, plain, none"):
        Progress("loud")


def on_terminal(body: str, columns: int = 60, **environment: str) -> str:
    """Return what the script writes to a terminal of this width."""
    script = f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n{body}"
    return terminals.on_terminal([sys.executable, "-c", script], columns, **environment)


TRAIN = """
import logging
from imdbcls.runtime.console import log_to_stderr
from imdbcls.runtime.progress import Progress
log_to_stderr()
logger = logging.getLogger("imdbcls.test")
shown, began = Progress("auto"), time.monotonic()
shown.start(200, num_epochs=2)
for step in range(1, 201):
    time.sleep(0.005)
    if step % 10 == 0: shown.set_loss(0.5); shown.set_speed(80.0)
    shown.step(step, 1 + step // 101)
    if step == 100: logger.warning("something was changed")
shown.log_epoch("epoch 2/2  train loss 0.5000")
shown.evaluating("test", 10, 20)
shown.evaluating("test", 20, 20)
shown.close()
print(time.monotonic() - began)
"""


def test_the_live_line_is_one_line() -> None:
    output = on_terminal(TRAIN, columns=80)
    paints = re.findall(r"(epoch \d/\d  step[^\r\n\x1b]*)", output)
    screen = screen_of(output)
    # The line is painted five times a second, and at the start, after both messages, at the last step and at the end.
    assert 3 <= len(paints) <= float(screen[2]) / 0.2 + 5
    assert paints[-1].rstrip() == "epoch 2/2  step 200/200  100 %  loss 0.5000  80.0 documents/s"
    assert screen[0] == "warning: something was changed" and "\x1b[33mwarning:\x1b[0m something" in output
    assert screen[1] == "epoch 2/2  train loss 0.5000"
    assert screen[3:] == [""]
    during = output[: output.rindex("epoch 1/2")]
    assert during.rfind("\x1b[?25h") > during.rfind(
        "\x1b[?25l"
    )  # the cursor stays visible, because the process may be killed


RECORD = """
import imdbcls.runtime.progress as progress
progress.MIN_PLAIN_SECONDS = progress.MAX_PLAIN_SECONDS = 3600
from imdbcls.runtime.messages import queue_of_messages, recorded_messages
with recorded_messages():
    exec(TRAIN)
    messages = queue_of_messages()
    recorded = [messages.get() for _ in range(messages.qsize())]
print(recorded)
"""


def test_trackers_get_messages_and_rare_progress_lines_while_the_live_line_is_shown() -> None:
    screen = screen_of(on_terminal(f"TRAIN = {TRAIN!r}\n{RECORD}", columns=400))
    assert ast.literal_eval(screen[3]) == [
        "warning: something was changed",
        screen[1],
    ]


def screen_of(output: str) -> list[str]:
    """Return what a terminal shows at the end. Only the control sequences that occur here are supported."""
    lines, row, column = [""], 0, 0
    for sequence, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", output):
        if text:
            line = lines[row].ljust(column)
            lines[row], column = line[:column] + text + line[column + len(text) :], column + len(text)
        elif sequence == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif sequence == "\r":
            column = 0
        elif sequence.endswith("A"):
            row -= int(sequence[2:-1] or 1)
        elif sequence == "\x1b[2K":
            lines[row] = ""
        elif sequence in ("\x1b[K", "\x1b[0K"):
            lines[row] = lines[row][:column]
        else:
            assert re.fullmatch(r"\x1b\[(\?25[lh]|[\d;]*m)", sequence), sequence
    return lines


def test_no_color_and_a_narrow_terminal() -> None:
    output = on_terminal(TRAIN, columns=30, NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3\d", output) and "warning: something was changed" in output
    paints = re.findall(r"(epoch[^\r\n\x1b]*)", output)
    assert paints and all(len(paint) < 30 for paint in paints)
    assert screen_of(output)[3:] == [""]


LOUD = """
from imdbcls.runtime.console import quiet_libraries
quiet_libraries()
import warnings, torch, transformers, datasets, huggingface_hub
transformers.logging.get_logger("transformers.x").warning("noise")
datasets.Dataset.from_dict({"text": ["a"] * 10}).map(lambda row: row)
warnings.warn_explicit("noise", FutureWarning, "x.py", 1, module="transformers.models.x")
warnings.warn("ours")
transformers.logging.get_logger("transformers.x").error("a real error")
"""


def test_libraries_are_silenced_and_imdbcls_is_not() -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{LOUD}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "noise" not in done.stderr and "Map" not in done.stderr
    assert "ours" in done.stderr and "a real error" in done.stderr


def test_rows_of_predict_are_logged_at_each_tenth(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 100 has line number 200. An earlier process has answered the first 100 of 1,000 rows."""
    shown = RowProgress(2000, num_done=100, number=200)
    for rows in range(100, 1000, 100):
        on_progress = shown.chunk(100, 2 * (rows + 100))
        for done in (50, 100):
            clock.now += 10.0
            on_progress(done, 100)
    shown.erase()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0] == "classified 200 rows  5 rows/s  20%  2.7 min left"
    assert lines[-1] == "classified 1,000 rows  5 rows/s  100%  0.0 s left"
    without_line_feeds = RowProgress(1)  # in a file of one line, or of lines that end with a carriage return
    clock.now += 400.0
    without_line_feeds.chunk(10, 10)(10, 10)
    assert capsys.readouterr().err == "classified 10 rows  0 rows/s  100%  0.0 s left\n"
    unknown = RowProgress(None)
    clock.now += 400.0
    unknown.chunk(10, 10)(5, 10)
    assert capsys.readouterr().err == "classified 5 rows  0 rows/s\n"
    RowProgress(None, shows=False).chunk(10, 10)(10, 10)
    assert capsys.readouterr().err == ""
