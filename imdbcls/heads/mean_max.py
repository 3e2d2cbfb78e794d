"""`head=mean_max`: the mean and the maximum of the token vectors, concatenated (Howard and Ruder 2018)."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import max_over_tokens, mean_over_tokens


class MeanMaxHead(nn.Module):
    """[mean ; maximum] over the non-padding tokens → dropout → Linear(2 D, C).

    Howard and Ruder (2018, ULMFiT), section 3.3 (concat pooling), concatenate the last hidden state of an LSTM, the
    maximum and the mean. Differences: this head omits the last state, because every token vector of an encoder depends
    on the complete document. This head has one linear layer instead of two with batch normalization.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        pooled = [mean_over_tokens(hidden_BTD, mask_BT), max_over_tokens(hidden_BTD, mask_BT)]
        return self.output(self.dropout(torch.cat(pooled, dim=1)))
