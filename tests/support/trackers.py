"""Log an invented run in the working directory, and read the content of its logs."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from imdbcls.tracking import RunIdentity, WandbTracker
from support.limits import HANG_SECONDS
from support.wandb_logs import inspect

NAME = "lstm-s0-1a2b3c4d"


def tracker(name: str = NAME, *, resumed_step: int | None = None, **options: Any) -> WandbTracker:
    limits = {"connect_seconds": HANG_SECONDS, "finish_seconds": HANG_SECONDS}
    defaults = {"mode": "auto", "project": "imdbcls", "entity": None, **limits}
    return WandbTracker(
        identity=RunIdentity("first", name, "train", ("lstm", "minilm", "imdb")),
        config={"lr": 3e-5, "head": {"bidirectional": False}, "group_hash": "abcd1234"},
        folder=Path("runs/first"),
        resumed_step=resumed_step,
        **(defaults | options),
    )


def train(run: WandbTracker, first: int = 1, last: int = 20, pause: float = 0.0) -> None:
    for step in range(first, last + 1):
        run.log({"step": step, "epoch": step / 10, "train/loss": 1 / step, "train/lr": 3e-5})
        if step % 10 == 0:
            run.log({"step": step, "epoch": step / 10, "val/loss": 0.5, "val/accuracy": 0.8 + step / 1000})
        time.sleep(pause)


def end(run: WandbTracker) -> None:
    mistake = {"id": "t7", "text": "Not bad.", "label": "positive", "prediction": "negative", "probability": 0.99}
    run.log_test([0, 0, 1, 1], [0, 0, 0, 1], ["negative", "positive"], [mistake])
    folder = Path("runs/first") / NAME
    if folder.parent.is_dir():  # the tracker is not disabled
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        (folder / "predictions" / "test.parquet").write_bytes(b"PAR1PAR1")
    run.finish({"status": "done", "val/accuracy": 0.81, "test/accuracy": 0.75}, folder)


def logs(prefix: str = "offline-run", name: str = NAME) -> list[Path]:
    return sorted(Path("runs/first/wandb").glob(f"{prefix}-*/run-{name}-{'[0-9a-f]' * 8}.wandb"))


def summary(log: Path) -> dict[str, Any]:
    return json.loads(inspect(log, "--summary"))


def records(log: Path, kind: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in inspect(log).splitlines()]
    return [record[kind] for record in every if record["type"] == kind]


def steps(log: Path) -> list[int]:
    return [record["item"]["step"] for record in records(log, "history")]


def no_helper_runs() -> bool:
    """Wait until the wandb-core processes that this process started have ended: a killed process ends a little later.

    Return False if one of them does not end.
    """
    limit = time.monotonic() + HANG_SECONDS
    while helpers():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def helpers() -> list[str]:
    """Return the ids of the wandb-core processes that this process started and that still run."""
    listed = subprocess.run(["pgrep", "-f", f"wandb-core .*--pid {os.getpid()}$"], capture_output=True, text=True)
    return listed.stdout.split()
