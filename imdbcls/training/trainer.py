"""The training loop: steps, validation after each epoch, the best weights kept, every moment resumable.

The trainer receives finished objects and knows no configuration. `Trainer.step` and, just below it,
`Trainer.accumulate_gradient` are the whole gradient step.
"""

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.data.batch import Batch
from imdbcls.data.batches import Ahead, EvalBatches, TrainBatches
from imdbcls.errors import UserError
from imdbcls.models.inference import Predictions, score
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.metrics_log import MetricsLog
from imdbcls.runtime.console import say, warn
from imdbcls.runtime.device import Hardware, seed_everything_at
from imdbcls.runtime.limits import is_out_of_memory
from imdbcls.runtime.progress import Progress
from imdbcls.runtime.signals import Interrupted, StopRequest
from imdbcls.tracking import Tracker
from imdbcls.training.evaluation_model import ScoredModel
from imdbcls.training.losses import Objective
from imdbcls.training.optim import learning_rate
from imdbcls.training.state import Saver, Step, TrainState, Window

# A GPU works behind the host, and reading a figure waits for it: at most this many steps go unread.
MAX_UNREAD_STEPS = 100


class NonFiniteError(UserError):
    """The loss or the gradient is no longer a number; nothing was saved since."""


class Trainer:
    """Fit a model and keep its best weights by validation accuracy; `scored` is what is scored and kept of it.

    `micro_batch_size` documents, or as many windows of them, go through the model at a time and their gradients add up
    to those of the batch's mean loss: it changes memory, time and which dropout masks are drawn. `watched_test_batches`
    is scored after each epoch where given, for the record only. Training ends after `patience` epochs
    without a better one; the schedule is still that of `epochs`. Random numbers depend on `seed` and the step alone.

    Nothing is read from a GPU in a step: losses are looked at where a point is logged, before anything is saved, and
    every `MAX_UNREAD_STEPS` steps; on the CPU, after each step.
    """

    def __init__(
        self,
        *,
        scored: ScoredModel,
        objective: Objective,
        optimizer: Optimizer,
        schedule: LRScheduler,
        hardware: Hardware,
        environment: Mapping[str, str],
        train_batches: TrainBatches,
        validation_batches: EvalBatches,
        watched_test_batches: EvalBatches | None,
        epochs: int,
        patience: int | None,
        seed: int,
        micro_batch_size: int,
        max_grad_norm: float | None,
        log_every: int,
        saver: Saver,
        save_every_minutes: float | None,
        metrics_log: MetricsLog,
        progress: Progress,
        stop: StopRequest,
    ) -> None:
        self.model = scored.trained
        self.scored = scored
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.hardware = hardware
        self.environment = dict(environment)  # for the record
        self.train_batches = train_batches
        self.validation_batches = validation_batches
        self.watched_test_batches = watched_test_batches
        self.epochs = epochs
        self.patience = epochs if patience is None else patience
        self.seed = seed
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        self.log_every = log_every
        self.saver = saver
        self.save_every_seconds = math.inf if save_every_minutes is None else 60 * save_every_minutes
        self.metrics_log = metrics_log
        self.progress = progress
        self.stop = stop
        self.num_steps = epochs * train_batches.steps_per_epoch
        # A step can be given up half-way, and taken anew later, where its forward pass leaves nothing in the model.
        self.steps_can_be_given_up = self.model.state_dict().keys() == {
            name for name, _ in self.model.named_parameters()
        }
        self.max_unread_steps = 1 if hardware.device.type == "cpu" else MAX_UNREAD_STEPS
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.state = TrainState(micro_batch_size=micro_batch_size)
        self.window = Window()
        self.best_validation: Predictions | None = None  # unless an earlier process made them

    def fit(self, tracker: Tracker) -> None:
        """Train to the last epoch from where `state` stands, then take the best weights.

        Raises NonFiniteError, and Interrupted after saving where a signal asked to stop.
        """
        self.model.train()
        self.progress.start(self.num_steps, self.state.step, self.epochs)
        last_save = time.monotonic()
        try:
            while not self.is_finished:
                epoch_start = self.state.epoch * self.train_batches.steps_per_epoch
                steps_done = self.state.step - epoch_start
                batches = Ahead(self.train_batches.epoch(self.state.epoch, start_step=steps_done))
                started = time.perf_counter()
                for batch in batches:
                    self.step(batch)
                    batches.cut_next()  # a GPU still computes
                    self.count(batch)
                    save_is_due = time.monotonic() - last_save > self.save_every_seconds
                    epoch_goes_on = self.state.step < epoch_start + self.train_batches.steps_per_epoch
                    if self.point_is_due or save_is_due or not epoch_goes_on:
                        self.read_figures()
                    self.count_time(time.perf_counter() - started)
                    if epoch_goes_on:  # its last point: finish_epoch
                        self.log(tracker, self.take_train_figures())
                    self.stop.obey()
                    if save_is_due:
                        self.saver.save(self.state, self.window)
                        last_save = time.monotonic()
                    started = time.perf_counter()
                self.finish_epoch(tracker)
                last_save = time.monotonic()
        except Interrupted:
            self.read_figures()
            self.saver.save(self.state, self.window)
            raise
        finally:
            self.progress.close()
            self.saver.wait()
        self.saver.take_best(self.state)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them since the best one."""
        return self.state.epoch >= min(self.epochs, self.state.best_epoch + self.patience)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns the batch's mean loss and the gradient's norm before clipping, on the device."""
        loss_sum = self.accumulate_gradient(batch)
        while loss_sum is None:
            self.halve_micro_batch(len(batch))
            loss_sum = self.accumulate_gradient(batch)
        grad_norm = clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.window.unread.append(Step(self.state.step + 1, self.learning_rate, loss_sum, grad_norm))
        if len(self.window.unread) >= self.max_unread_steps:
            self.read_figures()  # before the step is taken: on the CPU, a gradient that is no number changes no weight
        self.optimizer.step()
        self.scored.follow(self.state.step + 1)
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum, grad_norm

    def accumulate_gradient(self, batch: Batch) -> Tensor | None:
        """Add up the gradient of the batch's mean loss, a micro-batch at a time, and return that loss.

        Returns None where memory did not suffice; nothing then keeps the tensors of the attempt but the gradients.
        Raises Interrupted where a signal asks to stop: on a CPU a step may take a minute, and weights, optimizer and
        counts are still those of the step before.
        """
        seed_everything_at(self.seed, self.state.step)
        loss_sum = torch.zeros((), device=self.hardware.device)
        try:
            with self.stop.at_once() if self.steps_can_be_given_up else nullcontext():
                for micro_batch in batch.split(self.state.micro_batch_size):
                    on_device = micro_batch.to(self.hardware.device)
                    with self.hardware.autocast():
                        logits = [self.model(**on_device.inputs) for _ in range(self.objective.num_passes)]
                    loss = self.objective(logits, on_device.labels_B) / len(batch)
                    loss.backward()
                    loss_sum += loss.detach()
        except (RuntimeError, MemoryError) as error:
            if self.state.micro_batch_size == 1 or not is_out_of_memory(error):
                raise
            return None
        return loss_sum

    def halve_micro_batch(self, num_documents: int) -> None:
        """Take back a step that memory did not suffice for, so that it is begun anew with half as many at a time."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.hardware.device.type == "cuda":
            torch.cuda.empty_cache()
        tried = min(self.state.micro_batch_size, num_documents)
        self.state.micro_batch_size = (tried + 1) // 2
        warn(
            f"step {self.state.step + 1}: not enough memory for {tried} documents at a time, from here on "
            f"{self.state.micro_batch_size}; a step's gradient is still that of {num_documents} documents."
        )

    def read_figures(self) -> None:
        """Take the steps' losses and gradient norms off the device, in one copy that waits for it.

        Raises NonFiniteError at the first that is no number. What is saved has been through here.
        """
        steps, self.window.unread = self.window.unread, []
        if not steps:
            return
        figures = torch.stack([figure for step in steps for figure in (step.loss, step.grad_norm)]).tolist()
        for step, loss, grad_norm in zip(steps, figures[::2], figures[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise NonFiniteError(
                    f"Step {step.number} of {self.num_steps}, learning rate {step.learning_rate:.3g}: the loss is "
                    f"{loss:.4g} and the gradient's norm {grad_norm:.4g}. A lower lr, a longer warmup or "
                    "precision=fp32 may help; the best checkpoint so far is untouched."
                )
            self.window.losses.append(loss)
            self.window.learning_rate, self.window.grad_norm = step.learning_rate, grad_norm

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.optimizer)

    def count(self, batch: Batch) -> None:
        state, window = self.state, self.window
        state.step += 1
        state.documents += len(batch)
        state.tokens += batch.num_tokens
        window.documents += len(batch)
        window.tokens += batch.num_tokens
        self.progress.step(state.step, state.epoch + 1)

    def count_time(self, seconds: float) -> None:
        """Of a step and of cutting a batch. A GPU works behind: there, only the sum up to a point is a measurement."""
        self.state.train_seconds += seconds
        self.window.seconds += seconds

    @property
    def point_is_due(self) -> bool:
        return self.state.step % self.log_every == 0

    def take_train_figures(self) -> dict[str, float]:
        """What the window saw, where a point of it is due, and a new window; else nothing."""
        if not self.point_is_due:
            return {}
        window, self.window = self.window, Window()
        loss = sum(window.losses) / len(window.losses)
        documents_per_second = window.documents / window.seconds
        self.progress.logged(loss, documents_per_second)
        return {
            "train/loss": loss,
            "train/lr": window.learning_rate,
            "train/grad_norm": window.grad_norm,
            "train/documents_per_second": documents_per_second,
            "train/tokens_per_second": window.tokens / window.seconds,
        }

    def log(self, tracker: Tracker, figures: Mapping[str, float]) -> None:
        if not figures:
            return
        point = {"step": self.state.step, "epoch": self.state.step / self.train_batches.steps_per_epoch, **figures}
        self.metrics_log.write(point)
        tracker.log(point)

    def finish_epoch(self, tracker: Tracker) -> None:
        """Score validation, keep the weights if they are the best yet, and save."""
        self.scored.catch_up()
        predictions = {"val": self.score("validation", self.validation_batches)}
        if self.watched_test_batches is not None:
            predictions["test"] = self.score("test", self.watched_test_batches)
        figures = {
            f"{split}/{name}": value
            for split, of_split in predictions.items()
            for name, value in metrics_of(of_split).items()
        }
        self.log(tracker, {**self.take_train_figures(), **figures})  # one point, so that each step has one
        state = self.state
        state.epoch += 1
        accuracy, loss = figures["val/accuracy"], figures["val/loss"]
        if (accuracy, -loss) > (state.best_accuracy, -state.best_loss):
            state.best_epoch, state.best_accuracy, state.best_loss = state.epoch, accuracy, loss
            self.best_validation = predictions["val"]
            self.saver.save_best({"step": state.step, "epoch": state.epoch, **figures})
        self.saver.save(state, self.window)

    def score(self, split: str, batches: EvalBatches) -> Predictions:
        """The model's predictions on a split; raises Interrupted where a signal asks to stop."""
        with self.stop.at_once():  # a batch may take long, and scoring leaves nothing half done
            return score(self.scored.model, batches, self.hardware, self.progress.of(split))

    def resume(self) -> int | None:
        """Continue from the newest checkpoint that verifies; returns its step, or None where there is none."""
        restored = self.saver.restore(self.train_batches.steps_per_epoch, self.epochs)
        if restored is None:
            return None
        self.state, self.window, folder = restored
        say(f"Continuing at step {self.state.step:,} of {self.num_steps:,}, from {folder}.")
        return self.state.step
