"""What is saved of a training run, and how a run comes to stand exactly where it was saved."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls import checkpoint, optim
from imdbcls.checkpoint import Checkpoint, CheckpointError
from imdbcls.model import Classifier
from imdbcls.runs import MetricsLog


@dataclass
class Window:
    """What was seen since the last logged point. Losses are means over a step's documents, still on the device."""

    losses: list[Tensor] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan  # of the last step
    grad_norm: float = math.nan  # of the last step, before clipping


@dataclass
class TrainState:
    """Where training stands: with weights, optimizer and schedule, all that continuing exactly needs."""

    step: int = 0  # optimizer steps taken
    epoch: int = 0  # epochs finished, their validation included
    best_epoch: int = 0
    best_accuracy: float = -1.0  # on validation
    best_loss: float = math.inf  # on validation, in the best epoch: it decides between equal accuracies
    documents: int = 0
    tokens: int = 0  # real ones, without padding
    train_seconds: float = 0.0  # spent in steps: neither scoring nor saving
    log_bytes: int = 0  # length of metrics.jsonl
    micro_batch_size: int = 0  # as asked for, or less where memory did not suffice


class Saver:
    """Saves a run's training to `folder/last` and `folder/best`, and puts it back.

    `identity` is what a checkpoint must have in common with this run to be continued by it, as plain JSON values.
    """

    def __init__(
        self,
        *,
        folder: Path,
        identity: Mapping[str, Any],
        model: Classifier,
        optimizer: Optimizer,
        schedule: LRScheduler,
        metrics_log: MetricsLog,
    ) -> None:
        self.last = folder / "last"
        self.best = folder / "best"
        self.identity = dict(identity)
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.metrics_log = metrics_log

    def save(self, state: TrainState, window: Window) -> None:
        """Write `last`: the weights that are trained, optimizer, schedule, and where the training stands."""
        state.log_bytes = self.metrics_log.sync()
        tensors, settings = optim.state_of(self.optimizer)
        content = {
            "identity": self.identity,
            "train": asdict(state),
            "window": {**vars(window), "losses": [loss.item() for loss in window.losses]},
            "optimizer": settings,
            "schedule": self.schedule.state_dict(),
        }
        checkpoint.save(self.last, {"model": self._trained(), "optimizer": tensors}, content)

    def save_best(self, figures: Mapping[str, float]) -> None:
        """Write `best`: the weights, and the figures that make them the best; `epoch` is one of them."""
        checkpoint.save(self.best, {"model": self.model.state_dict()}, figures)
        checkpoint.forget_previous(self.best)

    def take_best(self, state: TrainState) -> None:
        """Give the model its best weights, at the end of the training."""
        best = self._load_best(state, latest_epoch=state.best_epoch)
        self.model.load_state_dict(best.tensors["model"])
        checkpoint.forget_previous(self.last)

    def restore(self, steps_per_epoch: int, epochs: int) -> tuple[TrainState, Window, Path] | None:
        """Put everything back to the newest whole checkpoint; returns where it stood and the checkpoint's folder.

        What was logged after it is dropped from the record. Returns None where nothing was saved; raises
        CheckpointError where what was saved is damaged or another run's.
        """
        saved = checkpoint.newest(self.last, self._trained())
        if saved is None:
            self.metrics_log.rewind(0)
            return None
        checkpoint.require_identity(saved, self.identity)
        try:
            self.model.load_state_dict({**self.model.state_dict(), **saved.tensors["model"]})
            optim.load_state(self.optimizer, saved.tensors["optimizer"], saved.state["optimizer"])
            self.schedule.load_state_dict(saved.state["schedule"])
            state = TrainState(**saved.state["train"])
            losses = [torch.tensor(loss) for loss in saved.state["window"]["losses"]]
            window = Window(**{**saved.state["window"], "losses": losses})
            epochs_done = state.step / steps_per_epoch
            assert 0 <= state.epoch <= epochs_done <= min(state.epoch + 1, epochs), "the step"
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            raise CheckpointError(f"{saved.folder} does not fit this run: {error}.") from error
        if state.best_epoch > 0:
            # After a kill between the two saves of an epoch's end, the best weights may be ahead of `last`.
            self._load_best(state, latest_epoch=state.epoch + 1)
        checkpoint.put_back(saved, self.last)
        self.metrics_log.rewind(state.log_bytes)
        return state, window, saved.folder

    def _trained(self) -> dict[str, Tensor]:
        """All weights but those of a frozen encoder, which only `best` holds: they are the backbone's own."""
        weights = self.model.state_dict()
        if not self.model.encoder_is_frozen:
            return weights
        return {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.")}

    def _load_best(self, state: TrainState, latest_epoch: int) -> Checkpoint:
        best = checkpoint.newest(self.best, self.model.state_dict())
        if best is None or best.state.get("epoch") not in range(state.best_epoch, latest_epoch + 1):
            raise CheckpointError(
                f"{self.best} does not hold the best weights so far, of epoch {state.best_epoch}. "
                f"Remove {self.best.parent.parent} to begin anew."
            )
        return best
