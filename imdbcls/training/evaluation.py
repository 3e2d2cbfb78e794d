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
        """Return the scores of a split, such as probabilities_NC; raise Interrupted if a signal requests a stop."""
        model, control = self.evaluation_model.model, self.control
        with control.stop.interruptible():  # evaluation changes no state, so it can be interrupted at any point
            on_progress = control.progress.for_split(split)
            return self.evaluation.scores(model, batches, self.hardware, on_progress, control.processes)

    def metrics(self, split: str, batches: EvalBatches, scores: NDArray[np.float64]) -> dict[str, float]:
        """Return the metrics of a split, such as `val/loss`, from its scores."""
        return {f"{split}/{name}": value for name, value in self.evaluation.metrics(batches, scores).items()}
