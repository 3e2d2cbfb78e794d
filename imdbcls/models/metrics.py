"""Metrics of one split: accuracy, macro F1, AUROC, log loss, Brier score and expected calibration error.

Shape suffixes: N documents, C classes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imdbcls.printable import counted
from imdbcls.runs.record import NUM_CALIBRATION_BINS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def metrics_of(labels_N: "NDArray[np.int64]", probabilities_NC: "NDArray[np.floating]") -> dict[str, float]:
    """Return the metrics of one split; the names do not include the split.

    - accuracy: the share of correctly classified documents.
    - f1: the unweighted mean of F1 over the classes.
    - auroc: the area under the ROC curve; with more than two classes, the unweighted mean of the areas of each class
      against the rest. NaN if a class has no document.
    - loss: the mean negative log-likelihood in nats per document.
    - brier: the squared error of the probabilities, summed over the classes (Brier 1950); from 0 to 2.
    - ece: see `expected_calibration_error`.

    scikit-learn computes accuracy, f1, auroc and loss.
    """
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

    classes, predicted_N = range(probabilities_NC.shape[1]), probabilities_NC.argmax(axis=1)
    if len(set(labels_N.tolist())) < len(classes):
        auroc = math.nan
    elif len(classes) == 2:
        auroc = roc_auc_score(labels_N, probabilities_NC[:, 1])
    else:
        auroc = roc_auc_score(labels_N, probabilities_NC, multi_class="ovr", labels=classes)
    return {
        "accuracy": float(accuracy_score(labels_N, predicted_N)),
        "f1": float(f1_score(labels_N, predicted_N, labels=classes, average="macro", zero_division=0.0)),
        "auroc": float(auroc),
        "loss": float(log_loss(labels_N, probabilities_NC, labels=classes)),
        "brier": float(((probabilities_NC - np.eye(len(classes))[labels_N]) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(labels_N, probabilities_NC),
    }


def expected_calibration_error(labels_N: "NDArray[np.int64]", probabilities_NC: "NDArray[np.floating]") -> float:
    """Return the expected calibration error of the predicted class's probability, from torchmetrics.

    The probabilities are grouped into 15 bins of equal width (Guo et al. 2017).
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities, labels = torch.tensor(probabilities_NC), torch.tensor(labels_N)
    return float(
        multiclass_calibration_error(probabilities, labels, probabilities.shape[1], n_bins=NUM_CALIBRATION_BINS)
    )


def confusion_matrix(
    labels_N: "NDArray[np.int64]", predicted_N: "NDArray[np.int64]", num_classes: int
) -> list[list[int]]:
    """Count the documents by true class (row) and predicted class (column)."""
    from sklearn import metrics

    return metrics.confusion_matrix(labels_N, predicted_N, labels=range(num_classes)).tolist()


def wilson_interval(num_correct: int, num_documents: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy over independent documents (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(num_correct, num_documents).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def only_class(confusion: Sequence[Sequence[int]], label_names: Sequence[str]) -> str | None:
    """Return the class that is predicted for all documents, or None if several classes are predicted."""
    predicted = [name for name, column in zip(label_names, zip(*confusion, strict=True), strict=True) if sum(column)]
    return predicted[0] if len(predicted) == 1 else None


def accuracy_warning(confusion: Sequence[Sequence[int]], label_names: Sequence[str]) -> str | None:
    """Return a warning if the model is not more accurate than always predicting the most common class, else None."""
    in_class, total = [sum(row) for row in confusion], sum(map(sum, confusion))
    correct = sum(confusion[index][index] for index in range(len(confusion)))
    if (name := only_class(confusion, label_names)) is not None:
        return (
            f"the model predicts the class {name} for {'the' if total == 1 else 'all'} {counted(total, 'document')}; "
            f"its accuracy of {correct / total:.2%} is the share of that class."
        )
    most = max(in_class)
    if correct <= most:
        return (
            f"the accuracy of {correct / total:.2%} is not higher than {most / total:.2%}, the share of the most "
            f"common class, {label_names[in_class.index(most)]}."
        )
    return None
