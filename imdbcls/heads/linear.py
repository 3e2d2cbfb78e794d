"""`head=linear`: one linear layer on the first token's vector, the smallest head (Devlin et al. 2019)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class LinearHead(nn.Module):
    """First token → dropout → Linear(D, C).

    In Devlin et al. (2019, BERT), section 4.1, the logits are h Wᵀ. h is the vector of the first token (C in the
    paper), and W contains the only new weights. Differences: this head has dropout and a bias, and it has no pooler.
    The authors' code applies the pretrained pooler, Linear(D, D) → tanh, to the first token before this layer.
    `head=cls` has such a pooler, with random initial weights.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(self.dropout(hidden_BTD[:, 0]))
