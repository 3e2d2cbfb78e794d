"""Save the state of a training run, and restore it exactly."""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from imdbcls.models.classifier import Classifier
from imdbcls.runs.format_version import CHECKPOINT, read_versioned
from imdbcls.runs.metrics_log import MetricsLog
from imdbcls.runtime.distributed import Processes
from imdbcls.runtime.environment import differences
from imdbcls.training import checkpoint, optim
from imdbcls.training.checkpoint import Checkpoint, CheckpointError
from imdbcls.training.evaluation_model import EvaluationModel
from imdbcls.training.meter import StepMeter
from imdbcls.training.phases import Phases

logger = logging.getLogger(__name__)

ANYTHING = object()  # matches any value in an expected structure


@dataclass
class TrainState:
    """The progress of training. A run resumes exactly from this state, the weights, the optimizer and the schedule."""

    step: int = 0  # optimizer steps taken
    epoch: int = 0  # epochs finished, including their validation
    best_epoch: int = 0
    best_value: float = math.nan  # validation metric of the best epoch
    best_loss: float = math.inf  # validation loss of the best epoch; decides between equal metrics
    documents: int = 0
    tokens: int = 0  # without padding
    train_seconds: float = 0.0  # time in training steps, without evaluation and saving
    loss_sum: float = 0.0  # sum of the losses of the steps in the current epoch
    last_loss: float = math.nan  # mean training loss over the steps of the last finished epoch
    seconds_in_epoch: float = 0.0  # time in the current epoch's training steps
    log_bytes: int = 0  # length of metrics.jsonl
    log_sha256: str = ""  # hash of the first `log_bytes` bytes of metrics.jsonl
    micro_batch_size: int = 0  # from the config, or smaller if memory ran out
    changes: list[str] = field(default_factory=list)  # hardware or software changes between interruption and resume


class Saver:
    """Save the state of a training run to `folder/last` and `folder/best`, and restore it.

    A checkpoint must have the same `resume_key` (plain JSON values) as the run that resumes from it. The `environment`,
    for example the number of threads, may differ. The last bits of the result may then differ from those of an
    uninterrupted run, so changes of the environment are logged and recorded.

    A thread writes a copy of the state while training continues. After a write error, nothing more is written, and a
    later `save` or `wait` raises the error.

    With several `processes`, only the main process writes. All processes restore the state from the same folder.
    """

    def __init__(
        self,
        *,
        folder: Path,
        resume_key: Mapping[str, Any],
        evaluation_model: EvaluationModel,
        environment: Mapping[str, str],
        phases: Phases,
        metrics_log: MetricsLog,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.last = folder / "last"
        self.best = folder / "best"
        self.epochs = folder / "epochs"  # the weights after each epoch, until they are averaged in a soup
        self.resume_key = dict(resume_key)
        self.environment = dict(environment)
        self.model = evaluation_model.trained
        self.evaluation_model = evaluation_model
        self.phases = phases
        self.metrics_log = metrics_log
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []
        self._error: BaseException | None = None

    def save(self, state: TrainState, meter: StepMeter) -> None:
        """Write `last`: the weights, their average, the optimizer, the schedule and the progress.

        All losses must be fetched from the device before this call, so that no checkpoint is saved after a NaN loss.
        """
        assert not meter.unread, f"the losses of {len(meter.unread)} steps have not been checked for NaN"
        if not self.processes.is_main:
            return
        state.log_bytes, state.log_sha256 = self.metrics_log.sync()
        tensors, settings = optim.state_of(self.phases.current.optimizer)
        content = {
            "resume_key": self.resume_key,
            "environment": self.environment,
            "train": asdict(state),
            "meter": meter.saved_fields(),
            "optimizer": settings,
            "schedule": self.phases.current.schedule.state_dict(),
        }
        files = {"model": self._without_frozen(self.model), "optimizer": tensors}
        if average := self.evaluation_model.average_state():
            files["average"] = average
        self._write(self.last, files, content)

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Write `best`: the weights and `metrics`, which must include `epoch`.

        The weights of a frozen encoder are left out; `load_best` adds them when training has ended.
        """
        if self.processes.is_main:
            self._write(self.best, {"model": self._without_frozen(self.evaluation_model.model)}, metrics)

    def save_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the weights after an epoch, with its validation metrics, for a soup."""
        if self.processes.is_main:
            weights = self._without_frozen(self.evaluation_model.model)
            self._write(self.epochs / str(epoch), {"model": weights}, metrics)

    def metrics_of_epoch(self, epoch: int) -> dict[str, float]:
        """Return the validation metrics that `save_epoch` wrote for an epoch."""
        with self.processes.main_first():
            self.wait()
            return read_versioned(self.epochs / str(epoch) / checkpoint.STATE, CHECKPOINT)

    def weights_of_epoch(self, epoch: int) -> dict[str, Tensor]:
        """Return the weights that `save_epoch` wrote for an epoch. Raise UserError if they are missing or damaged."""
        with self.processes.main_first():
            saved = checkpoint.load(self.epochs / str(epoch), self._without_frozen(self.evaluation_model.model))
            return saved.tensors["model"]

    def soup_epochs(self, state: TrainState) -> tuple[int, ...]:
        """Return the epochs that are averaged in `best`; () if `best` has the weights of a single epoch."""
        with self.processes.main_first():
            self.wait()
            return tuple(self._best_checkpoint(state).state.get("soup_epochs", ()))

    def save_soup(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Write a soup as `best`. The weights of the single epochs stay on disk until `load_best` deletes them.

        `metrics` must include `epoch` (the best epoch) and `soup_epochs`.
        """
        if self.processes.is_main:
            self._write(self.best, {"model": weights}, metrics)

    def wait(self) -> None:
        """Wait until all checkpoints are on disk. Raise the error if writing failed."""
        while self._writing:
            self._writing.pop(0).result()

    def _write(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Let the thread write a copy of a checkpoint. Wait first if two earlier copies are still unwritten."""
        while len(self._writing) > 1:
            self._writing.pop(0).result()
        copies = {
            stem: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
            for stem, named in tensors.items()
        }
        text = json.dumps(state)  # serialize now, because training changes the lists in the state
        self._writing.append(self._writer.submit(self._write_now, folder, copies, text))

    def _write_now(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: str) -> None:
        if self._error is not None:
            raise self._error  # writing `best` may have failed, and `last` must not be newer than `best`
        try:
            checkpoint.save(folder, tensors, json.loads(state))
            if folder == self.last:
                checkpoint.remove_previous(self.best)  # the previous `best` belonged to the previous `last`
        except BaseException as error:
            self._error = error
            raise

    def load_best(self, state: TrainState) -> None:
        """Load the best weights into the evaluation model, and add the weights of a frozen encoder to `best`.

        The weights of the single epochs, which are kept for a soup, are deleted. Call this at the end of training.
        """
        self.wait()
        with self.processes.main_first():
            self._load_best(state)

    def _load_best(self, state: TrainState) -> None:
        best = self._best_checkpoint(state)
        model = self.evaluation_model.model
        model.load_state_dict({**model.state_dict(), **best.tensors["model"]})
        if not self.processes.is_main:
            return
        checkpoint.move_to(best, self.best)  # `best.folder` is .new or .old if a kill came between two renames
        if best.tensors["model"].keys() != model.state_dict().keys():
            self._write(self.best, {"model": model.state_dict()}, best.state)
            self.wait()
        checkpoint.remove_previous(self.best)
        checkpoint.remove_previous(self.last)
        shutil.rmtree(self.epochs, ignore_errors=True)

    def restore(self, steps_per_epoch: int, epochs: int) -> tuple[TrainState, StepMeter, Path] | None:
        """Restore the newest complete checkpoint; return its progress, its meter and its folder.

        Records that were logged after the checkpoint are removed from the metrics log. Return None if there is no
        checkpoint. Raise CheckpointError if all are damaged, or if the newest complete one is from a different run.
        """
        with self.processes.main_first():
            return self._restore(steps_per_epoch, epochs)

    def _restore(self, steps_per_epoch: int, epochs: int) -> tuple[TrainState, StepMeter, Path] | None:
        is_main = self.processes.is_main
        saved = checkpoint.newest(self.last, self._without_frozen(self.model))
        if saved is None:
            if is_main:
                self.metrics_log.rewind()
            return None
        checkpoint.require_resume_key(saved, self.resume_key)
        upgrade(saved)
        self._enter_phase(saved)
        self._require_structure(saved)
        try:
            self.model.load_state_dict({**self.model.state_dict(), **saved.tensors["model"]})
            self.evaluation_model.load_average_state(saved.tensors.get("average", {}))
            phase = self.phases.current
            optim.load_state(phase.optimizer, saved.tensors["optimizer"], saved.state["optimizer"])
            phase.schedule.load_state_dict(saved.state["schedule"])
            state = TrainState(**saved.state["train"])
            losses = [float(loss) for loss in saved.state["meter"]["losses"]]
            meter = StepMeter(**{**saved.state["meter"], "losses": losses})
            epochs_done = state.step / steps_per_epoch
            assert 0 <= state.epoch <= epochs_done <= min(state.epoch + 1, epochs), "its step and epoch do not match"
            assert state.log_bytes >= 0, "the length of its log is negative"
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            raise CheckpointError(
                f"{saved.folder} does not fit this run: {error}. {checkpoint.remedy(self.last.parent.parent)}"
            ) from error
        if is_main and state.best_epoch > 0:
            # If the process was killed between the two saves at the end of an epoch, `best` may be newer than `last`.
            # The best weights that belong to `last` are then in `best.old`.
            checkpoint.move_to(self._best_checkpoint(state), self.best)
        if is_main:
            checkpoint.move_to(saved, self.last)
            self.metrics_log.rewind(state.log_bytes, state.log_sha256)
        self._note_changes(saved, state)
        return state, meter, saved.folder

    def _enter_phase(self, saved: Checkpoint) -> None:
        """Enter the phase of the checkpoint's epoch. If it is invalid, `_restore` raises CheckpointError later."""
        train = saved.state.get("train")
        epoch = train.get("epoch") if isinstance(train, dict) else None
        if isinstance(epoch, int) and epoch >= 0:
            self.phases.enter(epoch)

    def _require_structure(self, saved: Checkpoint) -> None:
        """Raise CheckpointError if the keys, lengths or types in the state differ from what this version saves."""
        phase = self.phases.current
        _, settings = optim.state_of(phase.optimizer)
        expected: dict[str, Any] = {
            "resume_key": self.resume_key,
            "environment": ANYTHING,  # checked separately below, because older versions recorded fewer keys
            "train": asdict(TrainState()),
            "meter": StepMeter().saved_fields(),
            "optimizer": settings,
            "schedule": phase.schedule.state_dict(),
        }
        expected["optimizer"]["scalars"] = ANYTHING
        expected["train"]["changes"] = expected["meter"]["losses"] = [ANYTHING]
        problems = list(structure_differences(saved.state, expected))
        found = saved.state.get("environment")
        if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
            problems.append("environment has the wrong type")
        for problem in problems:
            raise CheckpointError(
                f"{saved.folder / checkpoint.STATE} was not written by this version of imdbcls: {problem}. Use the "
                f"version that wrote it, or move {self.last.parent.parent} away and run its training command again."
            )

    def _note_changes(self, saved: Checkpoint, state: TrainState) -> None:
        changes = differences(saved.state["environment"], self.environment)
        if changes:
            change = "; ".join(changes)
            logger.warning(
                f"{change}: the last bits of the result may differ from those of an uninterrupted run. "
                "result.json records this change."
            )
            state.changes.append(f"after step {state.step}: {change}")

    def _without_frozen(self, model: Classifier) -> dict[str, Tensor]:
        """Return the model's weights without a frozen encoder, whose weights are only in the final `best`."""
        weights = model.state_dict()
        if not self.phases.encoder_is_fixed:
            return weights
        return {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.")}

    def _best_checkpoint(self, state: TrainState) -> Checkpoint:
        """Return the checkpoint of the best epoch; raise CheckpointError if it is missing."""
        model = self.evaluation_model.model
        best = checkpoint.newest(
            self.best,
            self._without_frozen(model),
            model.state_dict(),
            is_wanted=lambda found: found.state.get("epoch") == state.best_epoch,
        )
        if best is None:
            raise CheckpointError(
                f"{self.best} does not contain the best weights so far (epoch {state.best_epoch}). "
                f"{checkpoint.remedy(self.best.parent.parent)}"
            )
        return best


def upgrade(saved: Checkpoint) -> None:
    """Convert the progress in a checkpoint of an older version to the fields of `TrainState`.

    Older versions always selected the best epoch by accuracy and recorded `best_accuracy`. They did not record the loss
    or the duration of an epoch.
    """
    train = saved.state.get("train")
    if not isinstance(train, dict):
        return
    if "best_accuracy" in train:
        train["best_value"] = train.pop("best_accuracy")
    if not {"loss_sum", "last_loss", "seconds_in_epoch"} & train.keys():
        train.update(loss_sum=math.nan, last_loss=math.nan, seconds_in_epoch=0.0)


def structure_differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Yield the differences in keys, lengths and types between a value from JSON and the expected value."""
    if expected is ANYTHING:
        return
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() ^ found.keys(), key=str):
            yield f"{path}{key} is {'missing' if key in expected else 'unknown'}"
        for key in expected.keys() & found.keys():
            yield from structure_differences(found[key], expected[key], f"{path}{key}.")
    elif isinstance(expected, list | tuple) and isinstance(found, list):
        if expected == [ANYTHING]:
            return
        if len(found) != len(expected):
            yield f"{path[:-1]} has {len(found)} entries instead of {len(expected)}"
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from structure_differences(one, other, f"{path}{index}.")
    elif isinstance(expected, float):
        if not isinstance(found, int | float) or isinstance(found, bool):
            yield f"{path[:-1]} is not a number"
    elif type(found) is not type(expected):
        yield f"{path[:-1]} has the wrong type"
