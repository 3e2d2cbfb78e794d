"""`head=cls`: one tanh layer over the first token's vector, the classification head of RoBERTa (Liu et al. 2019)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class ClsHead(nn.Module):
    """First token → dropout → Linear(D, D) → tanh → dropout → Linear(D, C).

    The first token is selected before dropout, so that no dropout masks are drawn for the other tokens.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        first_BD = self.dropout(hidden_BTD[:, 0])
        return self.output(self.dropout(self.dense(first_BD).tanh()))
