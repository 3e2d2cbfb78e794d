"""Compute two reference points of a comparison: the most frequent class, and the ensemble of a group's seeds."""

from dataclasses import replace

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import METRICS
from imdbcls.runs.predictions import Predictions


def baseline_of(group: Group) -> dict[str, float]:
    """Return the metrics of a model that predicts the most frequent test label for every document.

    Its probabilities are the frequencies of the test labels. If the group has no probabilities, metrics that need them
    are left out.
    """
    predictions = group.runs[0].predictions
    frequencies_C = np.bincount(group.labels_N, minlength=len(predictions.label_names)) / len(group.labels_N)
    probabilities_NC = np.broadcast_to(frequencies_C, (len(predictions), len(frequencies_C)))
    constant = replace(
        predictions,
        predicted=np.full(len(predictions), frequencies_C.argmax()),
        probabilities=probabilities_NC if group.has_probabilities else None,
    )
    return metrics_of(constant)


def ensemble_of(group: Group) -> dict[str, float]:
    """Return the metrics of the ensemble that averages the probabilities of all seeds.

    Return an empty dict if the group has one seed or no probabilities.
    """
    if len(group.runs) == 1 or not group.has_probabilities:
        return {}
    probabilities_NC = group.mean_probabilities_NC
    predicted_N = probabilities_NC.argmax(axis=1)
    return metrics_of(replace(group.runs[0].predictions, predicted=predicted_N, probabilities=probabilities_NC))


def metrics_of(predictions: Predictions) -> dict[str, float]:
    metrics = [each for each in METRICS.values() if each.is_available_for(predictions)]
    values = {metric.key: metric.evaluate(predictions)[0] for metric in metrics}
    return {key: value for key, value in values.items() if np.isfinite(value)}
