"""What training makes small. A loss is called with logits and labels and returns its sum over the documents.

B documents, C classes. A sum, so that micro-batches add up to their batch: the trainer divides it by the number of
documents in the whole batch. A loss of one's own is a class that takes `class_weights_C` (float32, or None) and
`label_smoothing` beside its own settings, and is called in the same way.
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
    """The negative log-likelihood of each document's class, times the class's weight.

    With `label_smoothing` e the target is 1 - e for the true class and e / C more for each (Szegedy et al. 2016), and
    each class's term has the weight of that class, as in PyTorch.
    """

    def __init__(self, *, class_weights_C: Tensor | None, label_smoothing: float) -> None:
        self.class_weights_C = class_weights_C
        self.label_smoothing = label_smoothing

    def __call__(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_BC, labels_B, self.class_weights_C, label_smoothing=self.label_smoothing, reduction="sum"
        )


class Focal:
    """Cross-entropy times (1 - p)^gamma, with p the true class's probability (Lin et al. 2017, equation 5).

    Their alpha is `loss.class_weights`; the sigmoid's two classes become the softmax's C. The smoothed cross-entropy,
    where labels are smoothed, is scaled by the same factor.
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
        # Above zero, also where p rounds to 1: a power below 1 is infinitely steep there, and infinity times 0 is NaN.
        distances_B = (1 - probabilities_B).clamp(min=torch.finfo(torch.float32).eps)
        return (distances_B**self.gamma * losses_B).sum()


class Objective:
    """A loss over `num_passes` forward passes of the same documents: one, or two with R-Drop (Liang et al. 2021).

    R-Drop adds `r_drop` times the symmetric Kullback-Leibler divergence between two passes with different dropout, to
    the mean of their losses: the form of the authors' code (the paper's equation 4 has the sum of the losses, so its
    alpha is twice `r_drop`). A step then costs two.
    """

    def __init__(self, loss: Loss, r_drop: float) -> None:
        self.loss = loss
        self.r_drop = r_drop

    @property
    def num_passes(self) -> int:
        return 2 if self.r_drop > 0 else 1

    def __call__(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor:
        """The sum over the documents, of each pass's logits_BC and the common labels."""
        if len(logits) == 1:
            return self.loss(logits[0], labels_B)
        first_BC, second_BC = logits
        loss = (self.loss(first_BC, labels_B) + self.loss(second_BC, labels_B)) / 2
        return loss + self.r_drop * symmetric_divergence(first_BC, second_BC)


def symmetric_divergence(first_BC: Tensor, second_BC: Tensor) -> Tensor:
    """(KL(P||Q) + KL(Q||P)) / 2 in nats, summed over the documents."""
    first_BC, second_BC = first_BC.log_softmax(dim=1), second_BC.log_softmax(dim=1)
    return ((first_BC.exp() - second_BC.exp()) * (first_BC - second_BC)).sum() / 2


def weights_of_classes(wanted: Any, labels: NDArray[np.int64], label_names: Sequence[str]) -> Tensor | None:
    """The weight of each class from `loss.class_weights`, scaled so that the average training document weighs 1.

    `wanted` is None, `auto` (inverse to the class's share of `labels`; scikit-learn's `balanced`), a list in the order
    of `label_names`, or a mapping from every label to its weight. Scaled, because only their ratios are meant: so the
    learning rate and the norm that gradients are clipped to keep their meaning. A batch's weighted losses are divided
    by its documents and not, as PyTorch's mean is, by its weights: a document counts the same in whatever batch it is.
    Raises UserError for weights that do not fit the classes.
    """
    if wanted is None:
        return None
    counts = np.bincount(labels, minlength=len(label_names))
    given = 1 / counts.clip(min=1) if wanted == "auto" else np.array(in_order(wanted, label_names), dtype=np.float64)
    return torch.tensor(given * counts.sum() / (given * counts).sum(), dtype=torch.float32)


def as_named(label: str, label_names: Sequence[str]) -> str:
    """Return the class that a YAML label means: YAML 1.1 reads `yes` and `on` as true, `no` and `off` as false."""
    spellings = {"true": ("yes", "on"), "false": ("no", "off")}.get(label, ())
    meant = [name for name in label_names if name.lower() in spellings]
    return meant[0] if len(meant) == 1 and label not in label_names else label


def in_order(wanted: Any, label_names: Sequence[str]) -> list[float]:
    labels = ", ".join(label_names)
    if not isinstance(wanted, Mapping):
        if len(wanted) != len(label_names):
            raise UserError(f"loss.class_weights has {len(wanted)} weights for {len(label_names)} classes: {labels}.")
        return list(wanted)
    by_name = {as_named(label_name(label), label_names): weight for label, weight in wanted.items()}
    if by_name.keys() != set(label_names):
        raise UserError(
            f"loss.class_weights names {', '.join(by_name)}; the classes are {labels}, each to be named once."
        )
    return [by_name[name] for name in label_names]
