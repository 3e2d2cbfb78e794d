"""Collect the metrics of training steps between two log records, and fetch them from the device."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imdbcls.data.batch import Batch
from imdbcls.errors import UserError


class NonFiniteError(UserError):
    """Raised if the loss or gradient of a step, or a score of an evaluation, is NaN or infinite.

    The best checkpoint is not changed.
    """


class Step(NamedTuple):
    """The metrics of one optimizer step; the tensors are scalars on the device."""

    number: int  # counted from 1
    learning_rate: float
    loss: Tensor
    grad_norm: Tensor  # before clipping


@dataclass
class StepMeter:
    """Metrics since the last log record. Each loss is the mean over the documents of one step."""

    losses: list[float] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan  # value in the last step
    grad_norm: float = math.nan  # value in the last step, before clipping
    unread: list[Step] = field(default_factory=list)  # steps whose metrics are still on the device

    def saved_fields(self) -> dict[str, Any]:
        """Return all fields except `unread`, as plain values for a checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "unread"}

    def count(self, batch: Batch) -> None:
        """Count the documents and tokens of a step."""
        self.documents += batch.step_documents
        self.tokens += batch.step_tokens

    @property
    def mean_loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    @property
    def documents_per_second(self) -> float:
        return self.documents / self.seconds

    def fetch(self, num_steps: int) -> list[float]:
        """Fetch the unread losses and gradient norms from the device, in one transfer that waits for the device.

        Return the losses. `num_steps` is the number of steps of the run, for messages. Raise NonFiniteError at the
        first value that is NaN or infinite.
        """
        steps, self.unread = self.unread, []
        if not steps:
            return []
        metrics = torch.stack([value for step in steps for value in (step.loss, step.grad_norm)]).tolist()
        losses = metrics[::2]
        for step, loss, grad_norm in zip(steps, losses, metrics[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise NonFiniteError(
                    f"Step {step.number} of {num_steps}, learning rate {step.learning_rate:.3g}: the loss is "
                    f"{loss:.4g} and the gradient norm {grad_norm:.4g}. Try a lower lr, a longer warmup or "
                    "precision=fp32. The best checkpoint so far is unchanged."
                )
            self.losses.append(loss)
            self.learning_rate, self.grad_norm = step.learning_rate, grad_norm
        return losses

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the training steps, keyed by name, such as `train/loss`. Call `fetch` first."""
        return {
            "train/loss": self.mean_loss,
            "train/lr": self.learning_rate,
            "train/grad_norm": self.grad_norm,
            "train/documents_per_second": self.documents_per_second,
            "train/tokens_per_second": self.tokens / self.seconds,
        }
