"""What a set of predictions is worth: accuracy, macro F1, AUROC, log loss, calibration error."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imdbcls.runs.record import NUM_CALIBRATION_BINS

if TYPE_CHECKING:
    from imdbcls.models.inference import Predictions


def metrics_of(predictions: "Predictions") -> dict[str, float]:
    """The figures of one split, by their names without the split: accuracy, f1, auroc, loss, ece.

    - f1: unweighted mean over the classes; auroc: with more than two classes, the mean of one against the rest.
    - loss: mean negative log-likelihood in nats per document.
    - ece: expected calibration error of the predicted class's probability, 15 equal bins (Guo et al. 2017).

    Computed by scikit-learn, the calibration error by torchmetrics. AUROC is NaN where a class has no document.
    """
    import torch
    from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
    from torchmetrics.functional.classification import multiclass_calibration_error

    labels, probabilities = predictions.labels, predictions.probabilities
    classes = range(probabilities.shape[1])
    if len(set(labels.tolist())) < len(classes):
        auroc = math.nan
    elif len(classes) == 2:
        auroc = roc_auc_score(labels, probabilities[:, 1])
    else:
        auroc = roc_auc_score(labels, probabilities, multi_class="ovr", labels=classes)
    ece = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), len(classes), n_bins=NUM_CALIBRATION_BINS
    )
    return {
        "accuracy": float(accuracy_score(labels, predictions.predicted)),
        "f1": float(f1_score(labels, predictions.predicted, labels=classes, average="macro", zero_division=0.0)),
        "auroc": float(auroc),
        "loss": float(log_loss(labels, probabilities, labels=classes)),
        "ece": float(ece),
    }


def confusion_matrix(predictions: "Predictions") -> list[list[int]]:
    """Documents by true class (row) and predicted class (column)."""
    from sklearn import metrics

    classes = range(predictions.probabilities.shape[1])
    return metrics.confusion_matrix(predictions.labels, predictions.predicted, labels=classes).tolist()


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
