"""Training losses. A loss is called with logits_BC and labels_B and returns the sum over the documents.

The losses of micro-batches can then be added: the trainer divides by the number of documents in the batch. A custom
loss is a class whose constructor takes `class_weights_C` (float32, or None), `label_smoothing` and its own settings.

Shape suffixes: B documents, C classes, S samples of multi-sample dropout.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from imdbcls.data.documents import label_name
from imdbcls.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy:
    """Cross-entropy, with class weights and label smoothing.

    With `label_smoothing` e, the target probability of every class is e / C, plus 1 - e for the true class (Szegedy et
    al. 2016). The term of each class is multiplied by the weight of that class, as in PyTorch.
    """

    def __init__(self, *, class_weights_C: Tensor | None, label_smoothing: float) -> None:
        self.class_weights_C = class_weights_C
        self.label_smoothing = label_smoothing

    def __call__(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_BC, labels_B, self.class_weights_C, label_smoothing=self.label_smoothing, reduction="sum"
        )


class Focal:
    """Cross-entropy times (1 - p)^gamma, where p is the probability of the true class (Lin et al. 2017, equation 5).

    The paper's alpha is `loss.class_weights`. The paper uses a sigmoid for two classes; here, p is a softmax over C
    classes. With label smoothing, the smoothed cross-entropy is multiplied by the same factor.
    """

    def __init__(
        self, *, gamma: Annotated[float, Ge(0)], class_weights_C: Tensor | None, label_smoothing: float
    ) -> None:
        self.gamma = gamma
        self.class_weights_C = class_weights_C
        self.label_smoothing = label_smoothing

    def __call__(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        losses_B = functional.cross_entropy(
            logits_BC, labels_B, self.class_weights_C, label_smoothing=self.label_smoothing, reduction="none"
        )
        probabilities_B = logits_BC.softmax(dim=1).gather(1, labels_B[:, None])[:, 0]
        # Keep 1 - p above zero even if p rounds to 1. At zero, the gradient is infinite for gamma < 1, and infinity
        # times zero is NaN.
        distances_B = (1 - probabilities_B).clamp(min=torch.finfo(torch.float32).eps)
        return (distances_B**self.gamma * losses_B).sum()


class Objective:
    """A loss, optionally with R-Drop (Liang et al. 2021).

    With R-Drop, each document passes through the model twice, with different dropout masks. The objective is the mean
    of the two losses plus `r_drop` times the symmetric Kullback-Leibler divergence between the two predictions. This is
    the form in the authors' code. The paper's equation 4 has the sum of the losses, so the paper's alpha is 2 `r_drop`.
    R-Drop doubles the cost of a step.
    """

    def __init__(self, loss: Loss, r_drop: float) -> None:
        self.loss = loss
        self.r_drop = r_drop

    @property
    def num_passes(self) -> int:
        return 2 if self.r_drop > 0 else 1

    def __call__(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor:
        """Return the objective, summed over the documents.

        `logits` has one tensor for each forward pass: logits_BC or, with multi-sample dropout, logits_SBC. For
        logits_SBC, the loss is the mean over the S samples.
        """
        if len(logits) == 1:
            if logits[0].dim() == 3:
                return torch.stack([self.loss(logits_BC, labels_B) for logits_BC in logits[0]]).mean()
            return self.loss(logits[0], labels_B)
        first_BC, second_BC = logits
        loss = (self.loss(first_BC, labels_B) + self.loss(second_BC, labels_B)) / 2
        return loss + self.r_drop * symmetric_divergence(first_BC, second_BC)


def symmetric_divergence(first_BC: Tensor, second_BC: Tensor) -> Tensor:
    """Return (KL(P||Q) + KL(Q||P)) / 2 in nats, summed over the documents. P and Q are the softmax of the logits."""
    first_BC, second_BC = first_BC.log_softmax(dim=1), second_BC.log_softmax(dim=1)
    return ((first_BC.exp() - second_BC.exp()) * (first_BC - second_BC)).sum() / 2


def weights_of_classes(class_weights: Any, labels: NDArray[np.int64], label_names: Sequence[str]) -> Tensor | None:
    """Return the weight of each class, weights_C, or None.

    `class_weights` is the value of `loss.class_weights`: None, `auto`, a list in the order of `label_names`, or a
    mapping from every label to its weight. With `auto`, the weight of a class is inversely proportional to its number
    of training documents, like scikit-learn's `balanced`.

    The weights are scaled to a mean of 1 over the training documents, so that the learning rate and `max_grad_norm`
    keep their meaning. The trainer divides the weighted losses of a batch by the number of documents. PyTorch's mean
    would divide them by the sum of the batch's weights, and the weight of a document would then depend on its batch.

    Raise UserError if the weights do not match the classes.
    """
    if class_weights is None:
        return None
    counts = np.bincount(labels, minlength=len(label_names))
    given = (
        1 / counts.clip(min=1)
        if class_weights == "auto"
        else np.array(in_order(class_weights, label_names), dtype=np.float64)
    )
    return torch.tensor(given * counts.sum() / (given * counts).sum(), dtype=torch.float32)


def as_named(label: str, label_names: Sequence[str]) -> str:
    """Return the class that a label from YAML means. YAML reads `yes` and `on` as true, `no` and `off` as false."""
    spellings = {"true": ("yes", "on"), "false": ("no", "off")}.get(label, ())
    meant = [name for name in label_names if name.lower() in spellings]
    return meant[0] if len(meant) == 1 and label not in label_names else label


def in_order(class_weights: Any, label_names: Sequence[str]) -> list[float]:
    """Return the given weights in the order of `label_names`. Raise UserError if they do not match the classes."""
    labels = ", ".join(label_names)
    if not isinstance(class_weights, Mapping):
        if len(class_weights) != len(label_names):
            raise UserError(
                f"loss.class_weights has {len(class_weights)} weights for {len(label_names)} classes: {labels}. Set "
                "one weight for each class."
            )
        return list(class_weights)
    by_name = {as_named(label_name(label), label_names): weight for label, weight in class_weights.items()}
    if by_name.keys() != set(label_names):
        raise UserError(
            f"loss.class_weights has weights for {', '.join(by_name)}, but the classes are {labels}. Set one weight "
            "for each class."
        )
    return [by_name[name] for name in label_names]
