"""Compute the metrics of a group and their bootstrap intervals.

Every metric is a function of averages over documents, so all metrics can use the same bootstrap resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from imdbcls.comparison.results import MetricSummary
from imdbcls.comparison.statistics import covariance_over, document_draws, mean_over_seeds
from imdbcls.comparison.study import Group
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import NUM_CALIBRATION_BINS

SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Metric:
    """A metric that is a function of averages over documents."""

    name: str
    columns: Callable[[Predictions], np.ndarray]  # the quantities to average: one row per document (N, K)
    score: Callable[[np.ndarray], np.ndarray]  # the value of the metric, from the averages of the columns (..., K)
    upper: float = 1.0  # largest possible value


def correct(predictions: Predictions) -> np.ndarray:
    return predictions.correct[:, None]


def f1_counts(predictions: Predictions) -> np.ndarray:
    """Return Boolean indicators (N, 3 C), in three blocks with one column per class.

    The blocks indicate correct predictions of the class, all predictions of the class, and labels of the class.
    """
    classes = np.arange(predictions.probabilities.shape[1])
    predicted = predictions.predicted[:, None] == classes
    labelled = predictions.true_labels[:, None] == classes
    return np.concatenate([predicted & labelled, predicted, labelled], axis=1)


def macro_f1(averages: np.ndarray) -> np.ndarray:
    """Return the mean over classes of 2 right / (predicted + labelled), which is scikit-learn's macro F1.

    A class that is never predicted and never a label has an F1 of 0.
    """
    right, predicted, labelled = np.split(averages, 3, axis=-1)
    total = predicted + labelled
    return np.where(total > 0, 2 * right / np.where(total > 0, total, 1), 0.0).mean(axis=-1)


def auroc_placements(predictions: Predictions) -> np.ndarray:
    """Return the contribution of each document to the area under the ROC curve, averaged over classes (one vs. rest).

    These are the placements of DeLong et al. (1988, Biometrics 44:837). Their average is the area. Their average over a
    bootstrap resample is, to first order, the area of that resample. With two classes, the second class is positive.
    All values are NaN if a class has no documents.
    """
    num_classes = predictions.probabilities.shape[1]
    contributions = []
    for label in range(num_classes) if num_classes > 2 else [1]:
        positive = predictions.true_labels == label
        num_positive, num_negative = int(positive.sum()), int((~positive).sum())
        if num_positive == 0 or num_negative == 0:
            return np.full((len(predictions.true_labels), 1), np.nan)
        score = predictions.probabilities[:, label]
        ranks = rankdata(score)
        placements = np.empty(len(score))
        placements[positive] = (ranks[positive] - rankdata(score[positive])) / num_negative
        placements[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / num_positive
        area = placements[positive].mean()
        num_same = np.where(positive, num_positive, num_negative)
        contributions.append(area + (placements - area) * len(score) / num_same)
    return np.mean(contributions, axis=0)[:, None]


def calibration_gaps(predictions: Predictions) -> np.ndarray:
    """Return one column per confidence bin (N, bins). Bins have equal width.

    A document has its correctness (0 or 1) minus its confidence in the column of its bin, and 0 in the other columns.
    """
    confidence = predictions.probabilities.max(axis=1)
    gaps = np.zeros((len(confidence), NUM_CALIBRATION_BINS))
    gap = predictions.correct - confidence
    gaps[np.arange(len(confidence)), confidence_bin(confidence)] = gap
    return gaps


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * NUM_CALIBRATION_BINS).astype(int) - 1, 0, NUM_CALIBRATION_BINS - 1)


def brier(predictions: Predictions) -> np.ndarray:
    """Return the squared error of the probabilities, summed over classes (Brier 1950)."""
    truth = predictions.true_labels[:, None] == np.arange(predictions.probabilities.shape[1])
    return ((predictions.probabilities - truth) ** 2).sum(axis=1, keepdims=True)


def log_loss(predictions: Predictions) -> np.ndarray:
    of_label = np.take_along_axis(predictions.probabilities, predictions.true_labels[:, None], axis=1)
    return -np.log(np.maximum(of_label, SMALLEST_PROBABILITY))


def first(averages: np.ndarray) -> np.ndarray:
    return averages[..., 0]


METRICS = (
    Metric("test/accuracy", correct, first),
    Metric("test/f1", f1_counts, macro_f1),
    Metric("test/auroc", auroc_placements, first),
    # ECE with 15 bins (Guo et al. 2017, ICML). Averaging each column over all documents weights the bin by its size.
    Metric("test/ece", calibration_gaps, lambda averages: np.abs(averages).sum(axis=-1)),
    Metric("test/brier", brier, first, upper=2.0),
    Metric("test/loss", log_loss, first, upper=float("inf")),
)


def score_group(group: Group) -> tuple[dict[str, MetricSummary], np.ndarray]:
    """Return the metrics by name, and the bootstrap accuracies (B, S).

    A metric that is not finite is left out, such as the AUROC if a class has no documents.
    """
    columns = {metric.name: [metric.columns(run.predictions) for run in group.runs] for metric in METRICS}
    stacked_NK = np.concatenate([block for blocks in columns.values() for block in blocks], axis=1, dtype=np.float32)
    draws_BK = document_draws(stacked_NK, group.clusters_N)
    summaries: dict[str, MetricSummary] = {}
    accuracy_draws_BS = np.empty(0)
    start = 0
    for metric in METRICS:
        scores, draws = [], []
        for block in columns[metric.name]:
            stop = start + block.shape[1]
            scores.append(metric.score(block.mean(axis=0, dtype=np.float64)))
            draws.append(metric.score(draws_BK[:, start:stop]))
            start = stop
        scores_S, draws_BS = np.array(scores), np.stack(draws, axis=1)
        if np.isfinite(scores_S).all():
            covariance_SS = covariance_over(draws_BS)
            summaries[metric.name] = summarize(scores_S, covariance_SS, group.num_independent, metric.upper)
        if metric.name == "test/accuracy":
            accuracy_draws_BS = draws_BS
    return summaries, accuracy_draws_BS


def summarize(scores_S: np.ndarray, covariance_SS: np.ndarray, num_units: int, upper: float = 1.0) -> MetricSummary:
    """Summarize one metric over seeds. The interval is clipped to the range from 0 to `upper`."""
    estimate = mean_over_seeds(scores_S, covariance_SS, num_units)
    low, high = estimate.interval()
    return MetricSummary(
        mean=estimate.value,
        low=float(max(low, 0.0)),
        high=float(min(high, upper)),
        std=float(np.std(scores_S, ddof=1)) if len(scores_S) > 1 else None,
        values=tuple(float(score) for score in scores_S),
    )
