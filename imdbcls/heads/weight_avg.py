"""`head=weight_avg`: an average of the token vectors with one learned weight per position."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import masked_softmax, weighted_sum


class WeightedAverageHead(nn.Module):
    """Dropout → Σ_t a_t h_t → tanh → dropout → Linear(D, C).

    With `normalize`, each position has one learned logit, and the weights a_t are the softmax of the logits over the
    non-padding tokens. The logits start at zero, so training starts from the mean over the non-padding tokens.

    Without `normalize`, the weights a_t themselves are learned, one per position, and a learned bias is added to the
    sum. This is the head of the original teaching code, with the same initialization as `nn.Linear(num_positions, 1)`.
    There is one difference: here, padding has weight zero, while the original code included padding in the sum.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        num_positions: Annotated[int, Ge(1)],
        dropout: Annotated[float, Ge(0), Lt(1)],
        normalize: bool,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.dropout = nn.Dropout(dropout)
        self.position_weights = nn.Parameter(torch.zeros(num_positions))
        if not normalize:
            bound = 1 / math.sqrt(num_positions)
            nn.init.uniform_(self.position_weights, -bound, bound)
            self.position_bias = nn.Parameter(torch.empty(1).uniform_(-bound, bound))
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = self.dropout(hidden_BTD)
        pooled_BD = weighted_sum(self.pooling_weights(hidden_BTD, mask_BT), hidden_BTD)
        if not self.normalize:
            pooled_BD = pooled_BD + self.position_bias
        return self.output(self.dropout(pooled_BD.tanh()))

    def pooling_weights(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return a_t for each token, weights_BT; zero at padding."""
        weights_BT = self.position_weights[: hidden_BTD.shape[1]].expand(mask_BT.shape)
        return masked_softmax(weights_BT, mask_BT) if self.normalize else weights_BT * mask_BT
