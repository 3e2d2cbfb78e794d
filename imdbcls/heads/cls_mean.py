"""`head=cls_mean`: the first token's vector and the mean of the token vectors, concatenated."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import mean_over_tokens


class ClsMeanHead(nn.Module):
    """[first token ; mean over the non-padding tokens] → dropout → Linear(2 D, C).

    The two parts are the CLS and the MEAN pooling of Reimers and Gurevych (2019, Sentence-BERT), section 3. The paper
    uses one of them at a time; this head concatenates them. As in the paper, the mean includes the first token.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        pooled = [hidden_BTD[:, 0], mean_over_tokens(hidden_BTD, mask_BT)]
        return self.output(self.dropout(torch.cat(pooled, dim=1)))
