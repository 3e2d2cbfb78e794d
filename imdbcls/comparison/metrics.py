"""The metrics of a comparison: the value on the test documents, and the influence of each document on it.

The influence is the derivative of the metric with respect to the weight of a document, times N. It is zero on average.
The sum of the squared influences, divided by N², is the variance of the metric over documents. This estimate is the
infinitesimal jackknife (Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans", chapter 6). For a metric
that is an average over documents, such as accuracy, the influence of a document is the deviation of its value from the
average.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import NUM_CALIBRATION_BINS
from imdbcls.runs.selection import LOWER_IS_BETTER, TITLES

SMALLEST_PROBABILITY = 1e-12
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric that can decide a comparison. Percentages, such as accuracy, are fractions between 0 and 1."""

    name: str  # as in result.json, without the split
    evaluate: Callable[[Predictions], tuple[float, Floats]]  # value and influence (N,); NaN if not defined
    needs_probabilities: bool = True
    # Returns the influence of one changed prediction, given the predictions of a run; 0: no smallest change exists.
    step: Callable[[Predictions], float] = lambda _: 0.0
    upper: float = 1.0  # largest possible value
    default_margin: float | None = None  # default of --margin, as a fraction; None: no default

    @property
    def key(self) -> str:
        """The key under which `result.json` and `comparison.json` store the metric on the test split."""
        return f"test/{self.name}"

    def is_available_for(self, predictions: Predictions) -> bool:
        """Return whether the metric can be computed: the predictions have probabilities, or the metric needs none."""
        return predictions.probabilities is not None or not self.needs_probabilities

    @property
    def title(self) -> str:
        """The name of the metric in sentences."""
        return TITLES[self.name]

    @property
    def higher_is_better(self) -> bool:
        return self.name not in LOWER_IS_BETTER

    @property
    def is_percentage(self) -> bool:
        """Whether values are shown in percent, with differences in points. Loss and Brier score are plain numbers."""
        return self.higher_is_better

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1


def average(per_document_N: NDArray) -> tuple[float, Floats]:
    value = float(per_document_N.mean(dtype=np.float64))
    return value, per_document_N - value


def accuracy(predictions: Predictions) -> tuple[float, Floats]:
    return average(predictions.correct)


def macro_f1(predictions: Predictions) -> tuple[float, Floats]:
    """Return macro F1 as in scikit-learn with `labels` set to all classes, and its influence (N,).

    The F1 of a class is 2 c / (p + l), or 0 if p + l is 0. Here, p documents are predicted as this class, l documents
    are labelled with this class, and c documents are both.
    """
    classes = np.arange(len(predictions.label_names))
    predicted_NC = predictions.predicted[:, None] == classes
    labelled_NC = predictions.true_labels[:, None] == classes
    right_NC, total_NC = predicted_NC & labelled_NC, predicted_NC.astype(np.float64) + labelled_NC
    total_C = total_NC.mean(axis=0)
    divisor_C = np.where(total_C > 0, total_C, 1.0)
    f1_C = 2 * right_NC.mean(axis=0) / divisor_C
    influence_N = ((2 * right_NC - f1_C * total_NC) / divisor_C).mean(axis=1)
    return float(f1_C.mean()), influence_N


def step_of_f1(predictions: Predictions) -> float:
    """Return the typical influence of a changed prediction on macro F1: the mean over classes of 1 / (C q).

    C is the number of classes, and q is the share of documents labelled with the class. Classes without documents are
    left out of the mean. Macro F1 gives a document the weight w = 1 / (C q) of its class. The mean of w over classes
    equals the mean of w² over documents divided by the mean of w over documents. The result is 1 if all classes are
    equally frequent.
    """
    shares_C = np.bincount(predictions.true_labels, minlength=len(predictions.label_names)) / len(predictions.ids)
    return float((1 / (len(shares_C) * shares_C[shares_C > 0])).mean())


def auroc(predictions: Predictions) -> tuple[float, Floats]:
    """Return the area under the ROC curve, and its influence (N,). Both are NaN if a class has no documents.

    With two classes, this is the area for the second class. With more classes, it is the mean area over all classes,
    where each class is compared with all other classes. The influences are computed from the placement values of
    DeLong et al. (1988, Biometrics 44:837).
    """
    probabilities_NC = predictions.known_probabilities
    num_classes = probabilities_NC.shape[1]
    areas, influences = [], []
    for label in range(num_classes) if num_classes > 2 else [1]:
        positive = predictions.true_labels == label
        num_positive, num_negative = int(positive.sum()), int((~positive).sum())
        if num_positive == 0 or num_negative == 0:
            return float("nan"), np.full(len(positive), np.nan)
        score = probabilities_NC[:, label]
        ranks = rankdata(score)
        beaten = np.empty(len(score))
        beaten[positive] = (ranks[positive] - rankdata(score[positive])) / num_negative
        beaten[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / num_positive
        area = beaten[positive].mean()
        areas.append(area)
        influences.append((beaten - area) * len(score) / np.where(positive, num_positive, num_negative))
    return float(np.mean(areas)), np.mean(influences, axis=0)


def brier(predictions: Predictions) -> tuple[float, Floats]:
    """Return the Brier score and its influence (N,).

    The score is the squared error, summed over classes and averaged over documents (Brier 1950).
    """
    probabilities_NC = predictions.known_probabilities
    truth_NC = predictions.true_labels[:, None] == np.arange(probabilities_NC.shape[1])
    return average(((probabilities_NC - truth_NC) ** 2).sum(axis=1))


def log_loss(predictions: Predictions) -> tuple[float, Floats]:
    given_N = np.take_along_axis(predictions.known_probabilities, predictions.true_labels[:, None], axis=1)[:, 0]
    return average(-np.log(np.maximum(given_N.astype(np.float64), SMALLEST_PROBABILITY)))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, needs_probabilities=False, step=lambda _: 1.0, default_margin=0.003),
        Metric("f1", macro_f1, needs_probabilities=False, step=step_of_f1, default_margin=0.003),
        Metric("auroc", auroc),
        Metric("brier", brier, upper=2.0),
        Metric("loss", log_loss, upper=float("inf")),
    )
}


def confidence_bin(confidence: NDArray) -> NDArray[np.int64]:
    """Return, for each confidence, the index of the bin that contains it. All bins have the same width."""
    return np.clip(np.ceil(confidence * NUM_CALIBRATION_BINS).astype(int) - 1, 0, NUM_CALIBRATION_BINS - 1)
