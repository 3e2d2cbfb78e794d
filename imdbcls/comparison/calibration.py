"""Compute the calibration of a group: the expected calibration error and the reliability curve."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import confidence_bin
from imdbcls.comparison.results import Calibration, ReliabilityBin
from imdbcls.comparison.run_files import Run, number
from imdbcls.models.temperature import HIGHEST, LOWEST, apply_temperature
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import NUM_CALIBRATION_BINS

NUM_DRAWS = 500
DRAW_SEED = 20_070_401
MAX_NUMBERS = 4_000_000  # random numbers held in memory at a time


def calibration_of(group: Group) -> Calibration | None:
    """Return the ECE of every seed, the expected ECE of a calibrated model, and the p-value of a calibration test.

    The ECE has 15 bins (Guo et al. 2017, ICML). Return None if the group has no probabilities.

    The null hypothesis is that each prediction is correct with a probability equal to its confidence. The test is a
    parametric bootstrap (Vaicenavicius et al. 2019, AISTATS): it draws the correctness of all predictions from these
    probabilities, and counts how often the ECE of a draw is at least the observed ECE. With several seeds, the p-value
    of the group is twice the mean of the seeds' p-values, but at most 1. This p-value is valid although the seeds share
    documents (Vovk and Wang 2020, Biometrika 107:791).

    If every run recorded a temperature (Guo et al. 2017), the result also contains the ECE after temperature scaling.
    """
    if not group.has_probabilities:
        return None
    generator = np.random.default_rng(DRAW_SEED)
    values, expected, p_values = [], [], []
    for run in group.runs:
        confidence_N = predicted_probabilities(run.predictions)
        value = ece(confidence_N, run.predictions.correct)
        drawn_B = drawn_eces(confidence_N, generator)
        values.append(value)
        expected.append(float(drawn_B.mean()))
        p_values.append((1 + int((drawn_B >= value).sum())) / (1 + len(drawn_B)))
    p = p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.mean(p_values)))
    temperatures = temperatures_of(group)
    calibrated = None if temperatures is None else tuple(map(calibrated_ece, group.runs, temperatures))
    return Calibration(tuple(values), float(np.mean(expected)), p, temperatures, calibrated)


def temperatures_of(group: Group) -> tuple[float, ...] | None:
    """Return the recorded temperature of each run, or None if a run has no valid temperature."""
    found = [number(run.result.get("temperature")) for run in group.runs]
    valid = [value for value in found if value is not None and LOWEST <= value <= HIGHEST]
    return tuple(valid) if len(valid) == len(found) else None


def calibrated_ece(run: Run, temperature: float) -> float:
    """Return the ECE of a run's predictions after its logits are divided by a temperature."""
    scaled_NC = apply_temperature(run.predictions.known_probabilities, temperature)
    scaled = replace(run.predictions, probabilities=scaled_NC)
    return ece(predicted_probabilities(scaled), scaled.correct)


def predicted_probabilities(predictions: Predictions) -> NDArray[np.float64]:
    """Return the probability (N,) of the predicted class, which need not be the most probable class."""
    predicted_N1 = predictions.predicted[:, None]
    return np.take_along_axis(predictions.known_probabilities, predicted_N1, axis=1)[:, 0].astype(np.float64)


def ece(confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_]) -> float:
    """Return the mean of |accuracy - mean confidence| over bins, weighted by the number of predictions in each bin."""
    gaps = np.bincount(confidence_bin(confidence_N), weights=correct_N - confidence_N)
    return float(np.abs(gaps).sum() / len(confidence_N))


def drawn_eces(confidence_N: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the ECE (B,) of `NUM_DRAWS` random draws.

    Each draw makes every prediction correct with a probability equal to its confidence.
    """
    order = np.argsort(confidence_N)
    sorted_N = confidence_N[order].astype(np.float32)
    bins_N = confidence_bin(sorted_N.astype(np.float64))
    starts = np.flatnonzero(np.diff(bins_N, prepend=-1))
    sums = np.add.reduceat(confidence_N[order], starts)
    rows = max(1, MAX_NUMBERS // len(sorted_N))
    eces = []
    for start in range(0, NUM_DRAWS, rows):
        drawn = generator.random((min(rows, NUM_DRAWS - start), len(sorted_N)), dtype=np.float32) < sorted_N
        right = np.add.reduceat(drawn, starts, axis=1, dtype=np.int64)
        eces.append(np.abs(right - sums).sum(axis=1) / len(sorted_N))
    return np.concatenate(eces)


def reliability_curve(group: Group) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty bins, pooled over all seeds, in ascending order of confidence.

    Return an empty tuple if the group has no probabilities.
    """
    if not group.has_probabilities:
        return ()
    confidence = np.concatenate([predicted_probabilities(run.predictions) for run in group.runs])
    right = group.correct_SN.ravel()
    bins = confidence_bin(confidence)
    counts = np.bincount(bins, minlength=NUM_CALIBRATION_BINS)
    confidences = np.bincount(bins, weights=confidence, minlength=NUM_CALIBRATION_BINS)
    rights = np.bincount(bins, weights=right, minlength=NUM_CALIBRATION_BINS)
    return tuple(
        ReliabilityBin(
            confidence=float(confidences[i] / counts[i]),
            accuracy=float(rights[i] / counts[i]),
            share=float(counts[i] / counts.sum()),
        )
        for i in np.flatnonzero(counts)
    )
