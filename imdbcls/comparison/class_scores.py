"""Compute the confusion matrix of a group, and the precision, recall and F1 of each class."""

import numpy as np

from imdbcls.comparison.group import Group
from imdbcls.comparison.results import ClassScore


def confusion_matrix_of(group: Group) -> tuple[tuple[int, ...], ...]:
    """Return the confusion matrix, summed over seeds: true classes in rows, predicted classes in columns."""
    num_classes = len(group.runs[0].predictions.label_names)
    matrix_CC = np.zeros((num_classes, num_classes), dtype=np.int64)
    for run in group.runs:
        np.add.at(matrix_CC, (group.labels_N, run.predictions.predicted), 1)
    return tuple(tuple(int(count) for count in row) for row in matrix_CC)


def class_scores_of(group: Group, label_names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Return, for each class, the number of documents, and the precision, recall and F1 averaged over seeds.

    An undefined score, such as the precision of a class that is never predicted, counts as 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    classes = range(len(label_names))
    per_seed = [
        precision_recall_fscore_support(group.labels_N, run.predictions.predicted, labels=classes, zero_division=0)
        for run in group.runs
    ]
    means = [np.mean([scores[i] for scores in per_seed], axis=0) for i in range(3)]
    counts_C = per_seed[0][3]
    return tuple(
        ClassScore(name, int(counts_C[c]), *(float(mean_C[c]) for mean_C in means))
        for c, name in enumerate(label_names)
    )
