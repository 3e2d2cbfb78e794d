"""Scores of predictions for labelled documents: metrics, precision and recall of each class, and a confusion matrix.

Shape suffixes: N documents, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imdbcls.models.metrics import accuracy_warning, confusion_matrix, metrics_of, wilson_interval
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.selection import TITLES, as_text
from imdbcls.runtime.text_table import text_table

MAX_CLASSES = 12  # with more classes, the most frequent mistakes are listed instead of the confusion matrix
MAX_MISTAKES = 10  # length of the list of the most frequent mistakes


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class. An undefined score, such as the precision of a class that is never predicted, is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    documents: int


@dataclass(frozen=True)
class Scores:
    """The scores of predictions for labelled documents.

    `metrics` comes from `metrics_of`. `interval` is the 95 % interval of the accuracy over independent documents
    (Wilson 1927). `macro` is the average over the classes with equal weights. In `weighted`, the weight of a class is
    its number of documents. Rows of `confusion_matrix` are true classes, columns are predicted classes.
    """

    label_names: tuple[str, ...]
    documents: int
    metrics: Mapping[str, float]
    interval: tuple[float, float]
    classes: tuple[ClassScore, ...]
    macro: ClassScore
    weighted: ClassScore
    confusion_matrix: tuple[tuple[int, ...], ...]

    @property
    def warning(self) -> str | None:
        """A warning if the accuracy is not higher than the share of the most common class, else None."""
        return accuracy_warning(self.confusion_matrix, self.label_names)

    def plain(self) -> dict[str, Any]:
        """Return the scores as a JSON object: the metrics at the top level, and an entry for each class."""
        averages = {"macro": asdict(self.macro), "weighted": asdict(self.weighted)}
        for average in averages.values():
            del average["name"]
        return {
            "documents": self.documents,
            **self.metrics,
            "accuracy_interval": list(self.interval),
            "classes": {each.name: {k: v for k, v in asdict(each).items() if k != "name"} for each in self.classes},
            "averages": averages,
            "confusion_matrix": {
                "labels": list(self.label_names),
                "counts": [list(row) for row in self.confusion_matrix],
            },
        }


def scores_of(predictions: Predictions) -> Scores:
    """Return the scores of predictions whose true labels are known."""
    labels_N, names = predictions.true_labels, predictions.label_names
    counts_CC = confusion_matrix(labels_N, predictions.predicted, len(names))
    correct = int(predictions.correct.sum())
    return Scores(
        label_names=names,
        documents=len(predictions),
        metrics=metrics_of(labels_N, predictions.known_probabilities),
        interval=wilson_interval(correct, len(predictions)),
        classes=class_scores(counts_CC, names),
        macro=average_scores(counts_CC, "macro"),
        weighted=average_scores(counts_CC, "weighted"),
        confusion_matrix=tuple(map(tuple, counts_CC)),
    )


def class_scores(counts_CC: Sequence[Sequence[int]] | np.ndarray, names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Return the scores of each class from a confusion matrix, computed by scikit-learn."""
    precision_C, recall_C, f1_C, _ = _from_counts(counts_CC, None)
    documents_C = np.asarray(counts_CC).sum(axis=1)
    return tuple(
        ClassScore(name, float(precision_C[c]), float(recall_C[c]), float(f1_C[c]), int(documents_C[c]))
        for c, name in enumerate(names)
    )


def average_scores(counts_CC: Sequence[Sequence[int]] | np.ndarray, average: str) -> ClassScore:
    """Return the average of the class scores, `macro` or `weighted` as scikit-learn defines them."""
    precision, recall, f1, _ = _from_counts(counts_CC, average)
    return ClassScore(f"{average} average", float(precision), float(recall), float(f1), int(np.sum(counts_CC)))


def _from_counts(counts_CC: Sequence[Sequence[int]] | np.ndarray, average: str | None) -> Any:
    from sklearn.metrics import precision_recall_fscore_support

    counts = np.asarray(counts_CC)
    true_NN, predicted_NN = np.indices(counts.shape)
    return precision_recall_fscore_support(
        true_NN.ravel(),
        predicted_NN.ravel(),
        labels=range(len(counts)),
        sample_weight=counts.ravel(),
        average=average,
        zero_division=0.0,
    )


def report(scores: Scores, width: int | None, *, calibrated: bool) -> Iterator[str]:
    """Yield the lines of a classification report. `width` is the terminal's width, or None without a terminal.

    `calibrated` says whether the probabilities were calibrated before they were scored.
    """
    low, high = scores.interval
    counts_C = [sum(row) for row in scores.confusion_matrix]
    largest = counts_C.index(max(counts_C))
    baseline = f"always {scores.label_names[largest]!r}: {counts_C[largest] / scores.documents:.2%}"
    yield f"accuracy {scores.metrics['accuracy']:.2%} on {scores.documents:,} documents ({baseline})"
    yield f"95 % interval over documents {low:.2%} to {high:.2%}"
    others = (f"{TITLES[name]} {as_text(name, scores.metrics[name])}" for name in TITLES if name != "accuracy")
    yield f"{', '.join(others)}, ECE {scores.metrics['ece']:.4f}"
    if calibrated:
        yield "Loss, Brier score and ECE are computed from calibrated probabilities."
    else:
        yield "Loss, Brier score and ECE are computed before calibration, as in result.json."
    yield ""
    yield from class_table([*scores.classes, scores.macro, scores.weighted], width)
    yield ""
    yield from confusion_lines(scores, width)


def class_table(classes: Sequence[ClassScore], width: int | None, indent: str = "") -> Iterator[str]:
    """Yield the lines of a table with the precision, recall, F1 and number of documents of each class."""
    rows = [
        (
            f"{indent}{each.name}",
            *(f"{value:.2%}" for value in (each.precision, each.recall, each.f1)),
            f"{each.documents:,}",
        )
        for each in classes
    ]
    header = (f"{indent}class", "precision", "recall", "F1", "documents")
    yield from text_table(rows, header, width=width).splitlines()


def confusion_lines(scores: Scores, width: int | None) -> Iterator[str]:
    """Yield the confusion matrix as a table or, with many classes, the most frequent mistakes."""
    names, counts_CC = scores.label_names, np.array(scores.confusion_matrix)
    if len(names) <= MAX_CLASSES:
        rows = [(name, *(f"{count:,}" for count in row)) for name, row in zip(names, counts_CC, strict=True)]
        yield "Confusion matrix: true classes in rows, predicted classes in columns."
        yield from text_table(rows, ("", *names), width=width).splitlines()
        return
    np.fill_diagonal(counts_CC, 0)
    order = np.argsort(-counts_CC, axis=None, kind="stable")[:MAX_MISTAKES]
    pairs = [divmod(int(place), len(names)) for place in order]
    rows = [
        (names[true], names[found], f"{counts_CC[true, found]:,}") for true, found in pairs if counts_CC[true, found]
    ]
    if rows:
        yield "The most frequent mistakes:"
        yield from text_table(rows, ("true class", "predicted", "documents"), 2, width).splitlines()
