"""Compute accuracy on parts of the test split: by length, by truncation, by class and by `data.part_column`."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import PartAccuracy, Parts
from imdbcls.comparison.samples import sample_of, summarize
from imdbcls.comparison.statistics import Units, floored_variance

LENGTH_EDGES = (64, 128, 256, 512, 1024)
SMALLEST_PART = 10
MIN_COUNT = 5  # with fewer right or fewer wrong predictions, the normal approximation is poor


def accuracy_by_part(group: Group, label_names: tuple[str, ...]) -> Parts:
    classes = [(name, group.labels_N == label) for label, name in enumerate(label_names)]
    return Parts(
        length=() if group.tokens_N is None else accuracies_of(group, length_parts(group.tokens_N)),
        truncated=accuracies_of(group, truncation_parts(group)),
        classes=accuracies_of(group, classes),
        given=accuracies_of(group, given_parts(group)),
    )


def accuracies_of(group: Group, parts: list[tuple[str, np.ndarray]]) -> tuple[PartAccuracy, ...]:
    return tuple(part_accuracy(group, name, inside_N) for name, inside_N in parts)


def length_parts(tokens_N: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the name and mask of each length range. `tokens_N`: tokens of each document before truncation."""
    edges = (0, *LENGTH_EDGES, np.iinfo(np.int64).max)
    names = [f"≤ {LENGTH_EDGES[0]}", *(f"{low + 1}-{high}" for low, high in pairwise(LENGTH_EDGES))]
    names.append(f"> {LENGTH_EDGES[-1]}")
    return [
        (name, (tokens_N > low) & (tokens_N <= high)) for name, (low, high) in zip(names, pairwise(edges), strict=True)
    ]


def truncation_parts(group: Group) -> list[tuple[str, np.ndarray]]:
    """Return the names and masks of two parts: the documents within `max_length`, and the longer documents.

    Return an empty list if the lengths are unknown.
    """
    if group.max_length is None or group.tokens_N is None:
        return []
    longer_N = group.tokens_N > group.max_length
    treatment = "split into windows of" if group.in_windows else "truncated to"
    return [("within max_length", ~longer_N), (f"{treatment} {group.max_length}", longer_N)]


def given_parts(group: Group) -> list[tuple[str, np.ndarray]]:
    """Return the name and mask of each part that the data names, or an empty list if the data names no part."""
    parts_N = group.parts_N
    return [] if parts_N is None else [(name, parts_N == name) for name in sorted(set(parts_N))]


def part_accuracy(group: Group, name: str, inside_N: np.ndarray) -> PartAccuracy:
    """Return the accuracy on the documents in a Boolean mask. It is None for fewer than `SMALLEST_PART` documents.

    If nearly all predictions are right or nearly all are wrong, the interval is Wilson's (1927), which does not
    shrink to zero width.
    """
    num_documents = int(inside_N.sum())
    if num_documents < SMALLEST_PART:
        return PartAccuracy(name, num_documents, None)
    units = Units(num_documents, None if group.clusters_N is None else group.clusters_N[inside_N])
    sample = sample_of(group, METRICS["accuracy"], units, np.flatnonzero(inside_N))
    accuracy = summarize(sample, floored_variance(sample))
    mean, low, high = accuracy.mean, accuracy.low, accuracy.high
    if min(mean, 1 - mean) * num_documents < MIN_COUNT:
        low, high = proportion_confint(mean * num_documents, num_documents, method="wilson")
    # Rounding must not move the mean out of the interval.
    accuracy = replace(accuracy, low=min(float(low), mean), high=max(float(high), mean))
    return PartAccuracy(name, num_documents, accuracy)
