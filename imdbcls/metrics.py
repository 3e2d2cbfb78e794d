"""What a set of predictions is worth: accuracy, macro F1, AUROC, log loss, calibration error, confusion matrix."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from imdbcls.scoring import Predictions

NUM_CALIBRATION_BINS = 15


def metrics_of(predictions: "Predictions") -> dict[str, float]:
    """The figures of one split, by their names without the split: accuracy, f1, auroc, loss, ece.

    - f1: unweighted mean over the classes; auroc: with more than two classes, the mean of one against the rest.
    - loss: mean negative log-likelihood in nats per document.
    - ece: expected calibration error of the predicted class's probability, 15 equal bins (Guo et al. 2017).

    Computed by torchmetrics in float64. AUROC is NaN where a class has no document.
    """
    from torchmetrics.functional.classification import (  # a second of import that only scoring needs
        multiclass_accuracy,
        multiclass_auroc,
        multiclass_calibration_error,
        multiclass_f1_score,
    )

    labels_B = torch.from_numpy(predictions.labels)
    probabilities_BC = torch.from_numpy(predictions.probabilities)
    num_classes = probabilities_BC.shape[1]
    all_classes = len(labels_B.unique()) == num_classes
    figures = {
        "accuracy": multiclass_accuracy(probabilities_BC, labels_B, num_classes, average="micro"),
        "f1": multiclass_f1_score(probabilities_BC, labels_B, num_classes, average="macro"),
        "auroc": multiclass_auroc(probabilities_BC, labels_B, num_classes) if all_classes else torch.tensor(torch.nan),
        "loss": torch.nn.functional.nll_loss(probabilities_BC.log(), labels_B),
        "ece": multiclass_calibration_error(probabilities_BC, labels_B, num_classes, n_bins=NUM_CALIBRATION_BINS),
    }
    return {name: float(value) for name, value in figures.items()}


def confusion_matrix(predictions: "Predictions") -> NDArray[np.int64]:
    """Documents by true class (row) and predicted class (column)."""
    num_classes = predictions.probabilities.shape[1]
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (predictions.labels, predictions.predicted), 1)
    return matrix
