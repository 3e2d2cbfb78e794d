"""Log an invented run with any tracker: its steps, its test results and its result."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imdbcls.tracking import RunIdentity, Tracker

NAME = "lstm-s0-1a2b3c4d"
STUDY = Path("runs/first")
IDENTITY = RunIdentity("first", NAME, "train", ("lstm", "minilm", "imdb"))
CONFIG = {
    **{"lr": 3e-5, "head": {"name": "lstm", "bidirectional": False}, "data": {"train_limit": None}},
    **{"plugins": [], "group_hash": "abcd1234", "git_commit": "0123abc", "command": "imdbcls train head=lstm"},
}
RESULT = {
    **{"status": "done", "val/accuracy": 0.81, "test/accuracy": 0.75, "parameters": 1000, "best_epoch": 2},
    **{"versions": {"torch": "2"}, "watched_test": False},
}
MISTAKE = {"id": "t7", "text": "Not bad | at\nall.", "label": "positive", "prediction": "negative", "probability": 0.99}


def point(step: int) -> dict[str, float | int]:
    validation = {"val/loss": 0.5, "val/accuracy": 0.8 + step / 1000} if step % 10 == 0 else {}
    return {"step": step, "epoch": step / 10, "train/loss": 1 / step, "train/lr": 3e-5, **validation}


def train(tracker: Tracker, steps: Iterable[int]) -> None:
    """Log some steps, and write them to the run's `metrics.jsonl`, as a run does."""
    file = STUDY / NAME / "metrics.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    for step in steps:
        with file.open("a") as lines:
            lines.write(json.dumps(point(step)) + "\n")
        tracker.log(point(step))


def rewind(last_step: int) -> None:
    """Remove the points after `last_step` from `metrics.jsonl`, as a run does when it resumes from a checkpoint."""
    file = STUDY / NAME / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if json.loads(line)["step"] <= last_step))


def log_data(tracker: Tracker) -> None:
    sizes = {"train": 12, "validation": 3, "test": 4}
    tracker.log_data("5911", sizes, lambda: {"lengths": (["split", "mean"], [["train", "9.5"]])})


def end(tracker: Tracker) -> None:
    folder = STUDY / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(RESULT))
    tracker.log_test([0, 0, 1, 1], [0, 0, 0, 1], ["negative", "positive"], [MISTAKE])
    tracker.finish(RESULT, folder)


def options(**changes: Any) -> dict[str, Any]:
    """Return the arguments that every run passes to its trackers."""
    return {"identity": IDENTITY, "config": CONFIG, "folder": STUDY, "resumed_step": None} | changes
