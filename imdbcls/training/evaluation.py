"""Evaluate a split: compute the scores of each document, and the metrics of the split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from imdbcls.data.batches import EvalBatches
from imdbcls.models.inference import predict_probabilities
from imdbcls.models.metrics import metrics_of
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.distributed import Processes
from imdbcls.training.control import RunControl
from imdbcls.training.evaluation_model import EvaluationModel
from imdbcls.training.meter import NonFiniteError

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The two functions that evaluate a model on a split.

    - `scores` runs the model and returns an array with one row per document, such as probabilities_NC.
    - `metrics` returns the named metrics of the split, from its batches and these scores.
    """

    scores: Callable[[nn.Module, EvalBatches, Hardware, OnProgress | None, Processes | None], NDArray[np.float64]]
    metrics: Callable[[EvalBatches, NDArray[np.float64]], Mapping[str, float]]


CLASSIFICATION = Evaluation(
    predict_probabilities, lambda batches, probabilities_NC: metrics_of(batches.labels, probabilities_NC)
)


@dataclass(frozen=True)
class Evaluator:
    """Evaluate the evaluation model of a run on a split, with the functions in `evaluation`."""

    evaluation: Evaluation
    evaluation_model: EvaluationModel
    hardware: Hardware
    control: RunControl

    def scores(self, split: str, batches: EvalBatches) -> NDArray[np.float64]:
        """Return the scores of a split, such as probabilities_NC.

        Raise Interrupted if a signal requests a stop. Raise NonFiniteError if a score is NaN or infinite: the weights
        can overflow in the last step before an evaluation, and no later training step then finds it.
        """
        model, control = self.evaluation_model.model, self.control
        with control.stop.interruptible():  # evaluation changes no state, so it can be interrupted at any point
            on_progress = control.progress.for_split(split)
            scores = self.evaluation.scores(model, batches, self.hardware, on_progress, control.processes)
        if not np.isfinite(scores).all():
            raise NonFiniteError(
                f"The model's output for the {split} split is NaN or infinite. If the weights overflowed in training, "
                "try a lower lr, a longer warmup or precision=fp32. The best checkpoint so far is unchanged."
            )
        return scores

    def metrics(self, split: str, batches: EvalBatches, scores: NDArray[np.float64]) -> dict[str, float]:
        """Return the metrics of a split, such as `val/loss`, from its scores."""
        return {f"{split}/{name}": value for name, value in self.evaluation.metrics(batches, scores).items()}
