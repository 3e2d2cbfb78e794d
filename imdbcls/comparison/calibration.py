"""Compute the reliability curve of a group: accuracy as a function of confidence."""

import numpy as np

from imdbcls.comparison.results import ReliabilityBin
from imdbcls.comparison.scores import confidence_bin
from imdbcls.comparison.study import Group
from imdbcls.runs.record import NUM_CALIBRATION_BINS


def reliability_curve(group: Group) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty confidence bins. The predictions of all seeds are pooled."""
    confidence = group.probabilities_SNC.max(axis=2).ravel().astype(np.float64)
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
