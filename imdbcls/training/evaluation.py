"""How the trainer evaluates a split: the scores of each document, and the metrics of the split."""

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

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The two functions that evaluate a model on a split.

    - `scores` runs the model and returns an array with one row per document, such as probabilities_NC.
    - `metrics` returns the metrics of the split by name, from its batches and these scores.
    """

    scores: Callable[[nn.Module, EvalBatches, Hardware, OnProgress | None, Processes | None], NDArray[np.float64]]
    metrics: Callable[[EvalBatches, NDArray[np.float64]], Mapping[str, float]]


CLASSIFICATION = Evaluation(
    predict_probabilities, lambda batches, probabilities_NC: metrics_of(batches.labels, probabilities_NC)
)
