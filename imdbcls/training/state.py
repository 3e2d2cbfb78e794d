"""What is saved of a training run, and how a run comes to stand exactly where it was saved."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.models.classifier import Classifier
from imdbcls.runs.metrics_log import MetricsLog
from imdbcls.runtime.environment import differences
from imdbcls.training import checkpoint, optim
from imdbcls.training.checkpoint import Checkpoint, CheckpointError
from imdbcls.training.evaluation_model import ScoredModel

logger = logging.getLogger(__name__)

ANYTHING = object()  # in an expected form: whatever is there


class Step(NamedTuple):
    """What came of an optimizer step, as scalars on the device."""

    number: int  # counted from 1
    learning_rate: float
    loss: Tensor
    grad_norm: Tensor  # before clipping


@dataclass
class Window:
    """What was seen since the last logged point. Losses are means over a step's documents."""

    losses: list[float] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan  # of the last step
    grad_norm: float = math.nan  # of the last step, before clipping
    unread: list[Step] = field(default_factory=list)  # the latest steps, whose figures are still on the device

    def read_part(self) -> dict[str, Any]:
        """All but the unread steps, as plain values."""
        return {name: value for name, value in vars(self).items() if name != "unread"}


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
    log_sha256: str = ""  # of those bytes
    micro_batch_size: int = 0  # as asked for, or less where memory did not suffice
    changes: list[str] = field(default_factory=list)  # of the machine or the software, where the run was continued


class Saver:
    """Saves a run's training to `folder/last` and `folder/best`, and puts it back.

    `identity` is what a checkpoint must have in common with this run to be continued by it, as plain JSON values.
    `surroundings` may differ, the number of threads for example, and are said and recorded where they do: the last bits
    may then be others than an undisturbed run's.

    A thread writes a copy of the state while the training goes on: a disk takes seconds for what memory copies at once.
    Where writing fails, nothing later is written, and the next call raises the error.
    """

    def __init__(
        self,
        *,
        folder: Path,
        identity: Mapping[str, Any],
        scored: ScoredModel,
        surroundings: Mapping[str, str],
        optimizer: Optimizer,
        schedule: LRScheduler,
        metrics_log: MetricsLog,
    ) -> None:
        self.last = folder / "last"
        self.best = folder / "best"
        self.identity = dict(identity)
        self.surroundings = dict(surroundings)
        self.model = scored.trained
        self.scored = scored
        self.optimizer = optimizer
        self.schedule = schedule
        self.metrics_log = metrics_log
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []
        self._error: BaseException | None = None

    def save(self, state: TrainState, window: Window) -> None:
        """Write `last`: weights, their average, optimizer, schedule, where training stands; all figures are read."""
        assert not window.unread, f"{len(window.unread)} steps may have a loss that is no number"
        state.log_bytes, state.log_sha256 = self.metrics_log.sync()
        tensors, settings = optim.state_of(self.optimizer)
        content = {
            "identity": self.identity,
            "surroundings": self.surroundings,
            "train": asdict(state),
            "window": window.read_part(),
            "optimizer": settings,
            "schedule": self.schedule.state_dict(),
        }
        files = {"model": self._without_frozen(self.model), "optimizer": tensors}
        if average := self.scored.averaged():
            files["average"] = average
        self._write(self.last, files, content)

    def save_best(self, figures: Mapping[str, float]) -> None:
        """Write `best`: the weights, and the figures that make them the best; `epoch` is one of them.

        A frozen encoder's are added by `take_best`, once.
        """
        self._write(self.best, {"model": self._without_frozen(self.scored.model)}, figures)

    def wait(self) -> None:
        """Return when all is on the disk; raises what kept it from being written."""
        while self._writing:
            self._writing.pop(0).result()

    def _write(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; waits where two are not written yet, so that memory holds no third."""
        while len(self._writing) > 1:
            self._writing.pop(0).result()
        copies = {
            stem: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
            for stem, named in tensors.items()
        }
        text = json.dumps(state)  # now: the optimizer's and the schedule's own lists go on changing
        self._writing.append(self._writer.submit(self._write_now, folder, copies, text))

    def _write_now(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: str) -> None:
        if self._error is not None:
            raise self._error  # `last` must not be ahead of a `best` that could not be written
        try:
            checkpoint.save(folder, tensors, json.loads(state))
            if folder == self.last:
                checkpoint.forget_previous(self.best)  # until now, the `last` on the disk may have been of those before
        except BaseException as error:
            self._error = error
            raise

    def take_best(self, state: TrainState) -> None:
        """Give the scored model its best weights, at the end of the training, and have `best` hold all of them."""
        self.wait()
        best = self._load_best(state)
        checkpoint.put_back(best, self.best)  # a kill between two renames may have left it beside its place
        model = self.scored.model
        model.load_state_dict({**model.state_dict(), **best.tensors["model"]})
        if best.tensors["model"].keys() != model.state_dict().keys():
            self._write(self.best, {"model": model.state_dict()}, best.state)
            self.wait()
        checkpoint.forget_previous(self.best)
        checkpoint.forget_previous(self.last)

    def restore(self, steps_per_epoch: int, epochs: int) -> tuple[TrainState, Window, Path] | None:
        """Put everything back to the newest whole checkpoint; returns where it stood and the checkpoint's folder.

        What was logged after it is dropped from the record. Returns None where nothing was saved; raises
        CheckpointError where what was saved is damaged or another run's.
        """
        saved = checkpoint.newest(self.last, self._without_frozen(self.model))
        if saved is None:
            self.metrics_log.rewind()
            return None
        checkpoint.require_identity(saved, self.identity)
        self._require_form(saved)
        try:
            self.model.load_state_dict({**self.model.state_dict(), **saved.tensors["model"]})
            self.scored.load_averaged(saved.tensors.get("average", {}))
            optim.load_state(self.optimizer, saved.tensors["optimizer"], saved.state["optimizer"])
            self.schedule.load_state_dict(saved.state["schedule"])
            state = TrainState(**saved.state["train"])
            losses = [float(loss) for loss in saved.state["window"]["losses"]]
            window = Window(**{**saved.state["window"], "losses": losses})
            epochs_done = state.step / steps_per_epoch
            assert 0 <= state.epoch <= epochs_done <= min(state.epoch + 1, epochs), "the step"
            assert state.log_bytes >= 0, "the length of the log"
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            raise CheckpointError(f"{saved.folder} does not fit this run: {error}.") from error
        if state.best_epoch > 0:
            # After a kill between the two saves of an epoch's end, better ones may lie in the place of these.
            checkpoint.put_back(self._load_best(state), self.best)
        checkpoint.put_back(saved, self.last)
        self.metrics_log.rewind(state.log_bytes, state.log_sha256)
        self._note_changes(saved, state)
        return state, window, saved.folder

    def _require_form(self, saved: Checkpoint) -> None:
        """Raise CheckpointError unless a state has just the parts that this version saves, so that none is lost."""
        _, settings = optim.state_of(self.optimizer)
        expected: dict[str, Any] = {
            "identity": self.identity,
            "surroundings": ANYTHING,  # see below: an older version recorded less of them
            "train": asdict(TrainState()),
            "window": Window().read_part(),
            "optimizer": settings,
            "schedule": self.schedule.state_dict(),
        }
        expected["optimizer"]["scalars"] = ANYTHING
        expected["train"]["changes"] = expected["window"]["losses"] = [ANYTHING]
        problems = list(differences_in_form(saved.state, expected))
        found = saved.state.get("surroundings")
        if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
            problems.append("surroundings is of another kind")
        for problem in problems:
            raise CheckpointError(f"{saved.folder / checkpoint.STATE} is not of this version of imdbcls: {problem}.")

    def _note_changes(self, saved: Checkpoint, state: TrainState) -> None:
        changes = differences(saved.state["surroundings"], self.surroundings)
        if changes:
            change = "; ".join(changes)
            logger.warning(
                f"{change}: the same bits as without the interruption are not promised; result.json records it."
            )
            state.changes.append(f"after step {state.step}: {change}")

    def _without_frozen(self, model: Classifier) -> dict[str, Tensor]:
        """The weights but for a frozen encoder's: they are the backbone's own, and in `best` only once it is final."""
        weights = model.state_dict()
        if not self.model.encoder_is_frozen:
            return weights
        return {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.")}

    def _load_best(self, state: TrainState) -> Checkpoint:
        model = self.scored.model
        best = checkpoint.newest(
            self.best,
            self._without_frozen(model),
            model.state_dict(),
            is_wanted=lambda found: found.state.get("epoch") == state.best_epoch,
        )
        if best is None:
            raise CheckpointError(
                f"{self.best} does not hold the best weights so far, of epoch {state.best_epoch}. "
                f"{checkpoint.remedy(self.best.parent.parent)}"
            )
        return best


def differences_in_form(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Where a value from JSON has other keys, lengths or kinds of values than one that is known to be right."""
    if expected is ANYTHING:
        return
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() ^ found.keys(), key=str):
            yield f"{path}{key} is {'missing' if key in expected else 'unknown'}"
        for key in expected.keys() & found.keys():
            yield from differences_in_form(found[key], expected[key], f"{path}{key}.")
    elif isinstance(expected, list | tuple) and isinstance(found, list):
        if expected == [ANYTHING]:
            return
        if len(found) != len(expected):
            yield f"{path[:-1]} has {len(found)} entries instead of {len(expected)}"
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from differences_in_form(one, other, f"{path}{index}.")
    elif isinstance(expected, float):
        if not isinstance(found, int | float) or isinstance(found, bool):
            yield f"{path[:-1]} is no number"
    elif type(found) is not type(expected):
        yield f"{path[:-1]} is of another kind"
