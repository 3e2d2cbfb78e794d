"""The metrics of one split: accuracy, macro F1, AUROC, log loss, expected calibration error. N documents, C classes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imdbcls.runs.record import NUM_CALIBRATION_BINS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def metrics_of(labels_N: "NDArray[np.int64]", probabilities_NC: "NDArray[np.floating]") -> dict[str, float]:
    """Return the metrics of one split, by their names without the split: accuracy, f1, auroc, loss, ece.

    - f1: unweighted mean over the classes; auroc: with more than two classes, the mean of one against the rest.
    - loss: mean negative log-likelihood in nats per document.
    - ece: expected calibration error of the predicted class's probability, 15 equal bins (Guo et al. 2017).

    Computed by scikit-learn, the calibration error by torchmetrics. AUROC is NaN where a class has no document.
    """
    import torch
    from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
    from torchmetrics.functional.classification import multiclass_calibration_error

    classes, predicted_N = range(probabilities_NC.shape[1]), probabilities_NC.argmax(axis=1)
    if len(set(labels_N.tolist())) < len(classes):
        auroc = math.nan
    elif len(classes) == 2:
        auroc = roc_auc_score(labels_N, probabilities_NC[:, 1])
    else:
        auroc = roc_auc_score(labels_N, probabilities_NC, multi_class="ovr", labels=classes)
    ece = multiclass_calibration_error(
        torch.tensor(probabilities_NC), torch.tensor(labels_N), len(classes), n_bins=NUM_CALIBRATION_BINS
    )
    return {
        "accuracy": float(accuracy_score(labels_N, predicted_N)),
        "f1": float(f1_score(labels_N, predicted_N, labels=classes, average="macro", zero_division=0.0)),
        "auroc": float(auroc),
        "loss": float(log_loss(labels_N, probabilities_NC, labels=classes)),
        "ece": float(ece),
    }


def confusion_matrix(
    labels_N: "NDArray[np.int64]", predicted_N: "NDArray[np.int64]", num_classes: int
) -> list[list[int]]:
    """Count the documents by true class (row) and predicted class (column)."""
    from sklearn import metrics

    return metrics.confusion_matrix(labels_N, predicted_N, labels=range(num_classes)).tolist()


def doubt_about(confusion: Sequence[Sequence[int]], label_names: Sequence[str]) -> str | None:
    """Return a sentence if a model is not more accurate than always giving the same answer, else None."""
    in_class, total = [sum(row) for row in confusion], sum(map(sum, confusion))
    answered = [index for index, column in enumerate(zip(*confusion, strict=True)) if sum(column)]
    correct = sum(confusion[index][index] for index in range(len(confusion)))
    if len(answered) == 1:
        return (
            f"the model predicts one class, {label_names[answered[0]]}, for all {total:,} documents; its accuracy of "
            f"{correct / total:.2%} is the share of that class."
        )
    most = max(in_class)
    if correct <= most:
        return (
            f"the accuracy of {correct / total:.2%} is not above {most / total:.2%}, the share of the most common "
            f"class, {label_names[in_class.index(most)]}."
        )
    return None
