"""Small trainers on the sample documents."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from torch import Tensor, nn

from imdbcls import build
from imdbcls.config.checking import typed
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.signals import StopRequest
from imdbcls.tracking import Tracker, Trackers
from imdbcls.training.trainer import Trainer
from support.runs import TINY

NO_DROPOUT = ("backbone.dropout=0", "backbone.attention_dropout=0", "head=mean")


# Plain gradient descent with lr 1, so that the change of the weights in a step is the gradient.
DESCENT = ("optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "schedule=constant", "warmup=0")


PLAIN_SGD = (*DESCENT, "lr=1")


def make(folder: Path, *overrides: str) -> Trainer:
    """Build a trainer as `imdbcls.train` does, in fp32 on the CPU, with the run folder `folder`."""
    settings = [*TINY, "tracker=none", "precision=fp32", "device=cpu", "progress=none", f"data.cache_dir={folder}"]
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        config = typed(compose("config", [*settings, *overrides]))
    return build.build_run(config, RunFolder(folder), StopRequest()).trainer


def train_epoch(trainer: Trainer) -> list[float]:
    trainer.model.train()
    return [trainer.step(batch)[0].item() for batch in trainer.batches.train.epoch(0)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def weights_after_epochs(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Fit a trainer; return the trained weights before the first epoch, and after each epoch before its validation."""
    history = [weights(trainer.model)]
    finish_epoch = trainer.finish_epoch

    def record(tracker: Any) -> None:
        history.append(weights(trainer.model))
        finish_epoch(tracker)

    trainer.finish_epoch = record  # type: ignore[method-assign]
    trainer.fit(Trackers())
    return history


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def points(folder: Path, key: str) -> list[Any]:
    """Return the values of a key in metrics.jsonl, from the records that have it."""
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [point[key] for point in every if key in point]


class Poison(Tracker):
    """A tracker that sets a weight to NaN after a step and records the best checkpoint at that time."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.step = trainer, step
        self.best: dict[str, bytes] = {}

    def log(self, point: Mapping[str, float | int]) -> None:
        if point["step"] == self.step and "train/loss" in point:
            self.trainer.saver.wait()  # the save of the first epoch renames the folder in the background
            self.best = contents(self.trainer.saver.best)
            nn.init.constant_(self.trainer.model.head.output.bias, math.nan)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
