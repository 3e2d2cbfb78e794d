"""The training loop: optimizer steps, validation after each epoch, the best weights, and checkpoints at any step.

The trainer gets objects that are already built and a settings object, but not the config. `Trainer.step` and
`Trainer.accumulate_gradient`, just below it, are the complete gradient step.
"""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from imdbcls.data.batch import Batch
from imdbcls.data.batches import Prefetcher, SplitBatches
from imdbcls.printable import duration
from imdbcls.runs.selection import as_text
from imdbcls.runtime.device import Hardware, seed_everything_at
from imdbcls.runtime.limits import is_out_of_memory
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import Tracker
from imdbcls.training.control import RunControl
from imdbcls.training.evaluation import Evaluator
from imdbcls.training.evaluation_model import EvaluationModel
from imdbcls.training.losses import Objective
from imdbcls.training.meter import Step, StepMeter
from imdbcls.training.optim import learning_rate
from imdbcls.training.phases import Phases
from imdbcls.training.profiler import StepProfiler
from imdbcls.training.selection import rank, select_soup
from imdbcls.training.settings import TrainerSettings
from imdbcls.training.state import Saver, TrainState

logger = logging.getLogger(__name__)

# The CPU queues work on the GPU, and waits for the GPU only to read a value. So the losses of several steps are read
# together, after at most this many steps.
MAX_UNREAD_STEPS = 100


class Trainer:
    """Train a model and save the weights of the epoch with the best validation metric.

    The steps update `evaluation_model.trained`; `evaluation_model.model` is evaluated, and saved if it is the best so
    far. The loss of a step is the mean of `objective` over the targets of its batch: the documents' labels or, in
    pretraining, the masked tokens. `evaluator` computes the scores of a split, such as probabilities_NC, and its
    metrics.

    A step does not wait for a GPU. Losses are fetched before metrics are logged, before a checkpoint is saved, and
    after at most `MAX_UNREAD_STEPS` steps. On the CPU they are fetched in each step.

    With several processes, each computes a share of every batch and of every evaluation. All take the same steps and
    make the same decisions. Only the main process logs and saves.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        evaluation_model: EvaluationModel,
        objective: Objective,
        phases: Phases,
        batches: SplitBatches,
        evaluator: Evaluator,
        hardware: Hardware,
        saver: Saver,
        control: RunControl,
        profiler: StepProfiler | None = None,
    ) -> None:
        self.settings = settings
        self.control = control
        self.progress, self.processes = control.progress, control.processes
        self.model = evaluation_model.trained
        self.parallel_model = self.processes.parallel(self.model)
        self.evaluation_model = evaluation_model
        self.objective = objective
        self.phases = phases
        self.batches = batches
        self.evaluator = evaluator
        self.hardware = hardware
        self.saver = saver
        self.metrics_log = saver.metrics_log
        self.profiler = profiler
        self.is_pruned = False
        self.num_steps = settings.epochs * batches.train.steps_per_epoch
        self.num_test_documents = batches.test.num_documents
        self.max_grad_norm = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        # A step can be interrupted and repeated only if the forward pass does not change the model. A forward
        # pass can change only buffers, so the model must have none.
        self.steps_are_repeatable = self.model.state_dict().keys() == {
            name for name, _ in self.model.named_parameters()
        }
        self.max_unread_steps = 1 if hardware.device.type == "cpu" else MAX_UNREAD_STEPS
        # In epochs that train only the head, the encoder's weights have no gradients and are not clipped.
        groups = phases.phases[-1].optimizer.param_groups
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.state = TrainState(micro_batch_size=settings.micro_batch_size)
        self.meter = StepMeter()
        # Validation scores of the best epoch; None if the run was resumed after that epoch.
        self.best_validation: NDArray[np.float64] | None = None
        self.soup_epochs: tuple[int, ...] = ()  # the epochs whose weights are averaged, with `greedy_soup`

    def fit(self, tracker: Tracker) -> None:
        """Train from the current `state` until `is_finished`, then load the best weights.

        Raise NonFiniteError if the loss or the gradient is NaN or infinite. If a signal requests a stop, save a
        checkpoint and raise Interrupted.
        """
        minutes, steps_per_epoch = self.settings.save_every_minutes, self.batches.train.steps_per_epoch
        save_every_seconds = math.inf if minutes is None else 60 * minutes
        self.model.train()
        self.progress.start(
            self.num_steps,
            self.state.step,
            self.settings.epochs,
            batch_size=self.batches.train.batch_size,
            documents_to_evaluate=self.documents_to_evaluate,
        )
        last_save = time.monotonic()
        try:
            while not self.is_finished:
                epoch_start = self.state.epoch * steps_per_epoch
                steps_done = self.state.step - epoch_start
                batches = Prefetcher(self.batches.train.epoch(self.state.epoch, start_step=steps_done))
                started = time.perf_counter()
                for batch in batches:
                    self.step(batch)
                    batches.prefetch()  # collates the next batch while a GPU still computes this one
                    self.count(batch)
                    save_is_due = time.monotonic() - last_save > save_every_seconds
                    is_last_step = self.state.step == epoch_start + steps_per_epoch
                    if self.log_is_due or save_is_due or is_last_step:
                        self.fetch_metrics()
                    self.count_time(time.perf_counter() - started)
                    if self.profiler is not None:
                        self.profiler.step()
                    if not is_last_step:  # `finish_epoch` logs the last step together with the validation metrics
                        self.log(tracker, self.pop_train_metrics())
                    self.control.raise_if_stopped()
                    if save_is_due:
                        self.saver.save(self.state, self.meter)
                        last_save = time.monotonic()
                    started = time.perf_counter()
                self.finish_epoch(tracker)
                last_save = time.monotonic()
        except Interrupted:
            self.fetch_metrics()
            self.saver.save(self.state, self.meter)
            raise
        finally:
            self.progress.close()
            self.saver.wait()
            if self.profiler is not None:
                self.profiler.close()
        if self.settings.greedy_soup and not self.is_pruned:
            self.soup_epochs = self.saver.soup_epochs(self.state) or self.average_epochs()
        self.saver.load_best(self.state)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the current phase."""
        return self.phases.current.optimizer

    @property
    def schedule(self) -> LRScheduler:
        """The schedule of the current phase."""
        return self.phases.current.schedule

    @property
    def is_finished(self) -> bool:
        """Whether the run is pruned, all epochs are done, or `patience` epochs have passed since the best epoch.

        Epochs that train only the head do not count for `patience`.
        """
        epochs, patience = self.settings.epochs, self.settings.patience
        since = max(self.state.best_epoch, self.phases.num_head_epochs)
        return self.is_pruned or self.state.epoch >= min(epochs, since + (epochs if patience is None else patience))

    @property
    def documents_to_evaluate(self) -> int:
        """The maximum number of documents that the run may still evaluate, for the estimate of the time left."""
        num_test = self.num_test_documents
        per_epoch = self.batches.validation.num_documents + (num_test if self.settings.watch_test else 0)
        in_the_end = 0 if self.control.is_trial else num_test
        if self.settings.greedy_soup:
            in_the_end += (self.settings.epochs - 1) * self.batches.validation.num_documents
        return (self.settings.epochs - self.state.epoch) * per_epoch + in_the_end

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one optimizer step; return the mean loss and the gradient norm before clipping, both on the device.

        If memory runs out, the step is repeated with smaller micro-batches.
        """
        loss_sum = self.accumulate_gradient(batch)
        while loss_sum is None:
            self.halve_micro_batch(batch)
            loss_sum = self.accumulate_gradient(batch)
        self.processes.add(loss_sum)
        grad_norm = clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.meter.unread.append(Step(self.state.step + 1, self.learning_rate, loss_sum, grad_norm))
        if len(self.meter.unread) >= self.max_unread_steps:
            # Before `optimizer.step`: on the CPU, a NaN gradient is found before it reaches the weights.
            self.fetch_metrics()
        self.optimizer.step()
        self.evaluation_model.update(self.state.step + 1)
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum, grad_norm

    def accumulate_gradient(self, batch: Batch) -> Tensor | None:
        """Compute the gradient of the batch's mean loss, one micro-batch at a time, and return the loss.

        If memory runs out, return None. Only gradients then remain from the failed attempt, and `halve_micro_batch`
        frees them. If the micro-batches cannot be smaller, or with several processes, raise the error instead.

        With `steps_are_repeatable` and a single process, a signal that requests a stop raises Interrupted before the
        step ends, because a step can take a minute on a CPU. In all these cases, weights, optimizer and counters do not
        change.
        """
        num_processes = self.processes.size
        is_interruptible = self.steps_are_repeatable and num_processes == 1
        seed_everything_at(self.settings.seed, self.state.step, self.processes.rank)
        loss_sum = torch.zeros((), device=self.hardware.device)
        try:
            with self.control.stop.interruptible() if is_interruptible else nullcontext():
                micro_batches = batch.split(self.state.micro_batch_size)
                for micro_batch in micro_batches:
                    on_device = micro_batch.to(self.hardware.device)
                    with self.without_averaging() if micro_batch is not micro_batches[-1] else nullcontext():
                        with self.hardware.forward_pass():
                            logits = [self.parallel_model(**on_device.inputs) for _ in range(self.objective.num_passes)]
                        loss = self.objective(logits, on_device.targets) / batch.step_targets
                        if num_processes > 1:  # averaging over the processes divides the gradient by their number
                            loss *= batch.weight
                            (loss * num_processes).backward()
                        else:
                            loss.backward()
                    loss_sum += loss.detach()
        except (RuntimeError, MemoryError) as error:
            if self.state.micro_batch_size == 1 or num_processes > 1 or not is_out_of_memory(error):
                raise
            return None
        return loss_sum

    def without_averaging(self) -> AbstractContextManager[None]:
        """Return a context in which `backward` only accumulates this process's gradients."""
        return self.parallel_model.no_sync() if self.processes.size > 1 else nullcontext()

    def halve_micro_batch(self, batch: Batch) -> None:
        """Reset the gradients and halve the micro-batch size, after a step on `batch` that ran out of memory."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.hardware.device.type == "cuda":
            torch.cuda.empty_cache()
        tried = min(self.state.micro_batch_size, len(batch.mask_BT))
        self.state.micro_batch_size = (tried + 1) // 2
        unit = "documents" if batch.documents_W is None else "windows"
        logger.warning(
            f"step {self.state.step + 1}: not enough memory for a micro-batch of {tried} {unit}; continuing with "
            f"{self.state.micro_batch_size}. Each step still uses all {len(batch)} documents of its batch."
        )

    def fetch_metrics(self) -> None:
        """Fetch the unread losses and gradient norms from the device. Call this before each save.

        Raise NonFiniteError at the first value that is NaN or infinite.
        """
        for loss in self.meter.fetch(self.num_steps):
            self.state.loss_sum += loss
        if self.meter.losses:
            self.progress.set_loss(self.meter.mean_loss)

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.optimizer)

    def count(self, batch: Batch) -> None:
        """Count a step, its documents and its tokens, and show the progress."""
        state = self.state
        state.step += 1
        state.documents += batch.step_documents
        state.tokens += batch.step_tokens
        self.meter.count(batch)
        self.progress.step(state.step, state.epoch + 1)

    def count_time(self, seconds: float) -> None:
        """Add the time of a step, including collating. On a GPU, only the sum over many steps is meaningful."""
        self.state.train_seconds += seconds
        self.state.seconds_in_epoch += seconds
        self.meter.seconds += seconds

    @property
    def log_is_due(self) -> bool:
        return self.state.step % self.settings.log_every == 0

    def pop_train_metrics(self) -> dict[str, float]:
        """Return the metrics since the last log record and reset the meter; return {} if no record is due."""
        if not self.log_is_due:
            return {}
        meter, self.meter = self.meter, StepMeter()
        self.progress.set_speed(meter.documents_per_second)
        return meter.metrics()

    def log(self, tracker: Tracker, metrics: Mapping[str, float]) -> None:
        if not metrics or not self.processes.is_main:
            return
        record = {"step": self.state.step, "epoch": self.state.step / self.batches.train.steps_per_epoch, **metrics}
        self.metrics_log.write(record)
        tracker.log(record)

    def finish_epoch(self, tracker: Tracker) -> None:
        """Evaluate on validation, save the best weights so far, ask `should_prune`, and save a checkpoint."""
        self.evaluation_model.sync()
        started = time.perf_counter()
        validation = self.evaluator.scores("validation", self.batches.validation)
        metrics = self.evaluator.metrics("val", self.batches.validation, validation)
        if self.settings.watch_test:
            test = self.evaluator.scores("test", self.batches.test)
            metrics |= self.evaluator.metrics("test", self.batches.test, test)
        self.log(tracker, {**self.pop_train_metrics(), **metrics})  # together, so that a step has only one record
        state = self.state
        state.epoch += 1
        state.last_loss, state.loss_sum = state.loss_sum / self.batches.train.steps_per_epoch, 0.0
        seconds, state.seconds_in_epoch = state.seconds_in_epoch + time.perf_counter() - started, 0.0
        metric = self.settings.metric
        value, loss = metrics[f"val/{metric}"], metrics["val/loss"]
        best = rank(metric, state.best_value, state.best_loss)
        if state.best_epoch == 0 or rank(metric, value, loss) > best:
            state.best_epoch, state.best_value, state.best_loss = state.epoch, value, loss
            self.best_validation = validation
            self.saver.save_best({"step": state.step, "epoch": state.epoch, **metrics})
        if self.settings.greedy_soup:
            self.saver.save_epoch(state.epoch, metrics)
        self.progress.log_epoch(self.epoch_line(metrics, seconds), seconds)
        should_prune = self.control.should_prune
        if should_prune is not None and should_prune(state.epoch, value):
            self.is_pruned = not self.is_finished
        if self.phases.enter(state.epoch):
            self.begin_phase()
        self.saver.save(state, self.meter)

    def begin_phase(self) -> None:
        """Prepare for the epochs of a new phase, which trains other weights."""
        self.parallel_model = self.processes.parallel(self.model)
        if not self.phases.current.head_only:
            self.batches.train.read_from(None)
            self.batches.validation.read_from(None)
        self.model.train()

    def epoch_line(self, metrics: Mapping[str, float], seconds: float) -> str:
        """Return one line on the last finished epoch."""
        state, metric = self.state, self.settings.metric
        shown = [metric] if metric == "loss" else [metric, "loss"]
        parts = [
            f"epoch {state.epoch}/{self.settings.epochs}",
            f"train loss {state.last_loss:.4f}",
            *(f"val {name} {as_text(name, metrics[f'val/{name}'])}" for name in shown),
            duration(seconds),
        ]
        return "  ".join([*parts, "best"] if state.best_epoch == state.epoch else parts)

    def average_epochs(self) -> tuple[int, ...]:
        """Replace the best checkpoint with a greedy soup of the epochs' weights; return the averaged epochs."""
        soup = select_soup(
            self.settings.metric, self.state, self.saver, self.evaluator, self.batches.validation, self.best_validation
        )
        self.best_validation = soup.scores
        return soup.epochs

    def evaluate_before_training(self, tracker: Tracker) -> None:
        """Log the validation metrics of the initial weights as step 0."""
        validation = self.evaluator.scores("validation", self.batches.validation)
        self.log(tracker, self.evaluator.metrics("val", self.batches.validation, validation))

    def final_probabilities(self) -> dict[str, NDArray[np.float64]]:
        """Return probabilities_NC of the best weights on validation and test. Call it after `fit`."""
        validation = self.final_validation()
        return {"validation": validation, "test": self.evaluator.scores("test", self.batches.test)}

    def final_validation(self) -> NDArray[np.float64]:
        """Return the scores of the best weights on validation, such as probabilities_NC. Call it after `fit`.

        Validation is evaluated again only if the run was resumed after the best epoch.
        """
        if self.best_validation is None:
            return self.evaluator.scores("validation", self.batches.validation)
        return self.best_validation

    def resume(self) -> int | None:
        """Continue from the newest valid checkpoint. Return its step, or None if there is no checkpoint."""
        first_phase = self.phases.current
        restored = self.saver.restore(self.batches.train.steps_per_epoch, self.settings.epochs)
        if self.phases.current is not first_phase:
            self.begin_phase()
        if restored is None:
            return None
        self.state, self.meter, folder = restored
        logger.info(f"Continuing at step {self.state.step:,} of {self.num_steps:,}, from {folder}.")
        return self.state.step
