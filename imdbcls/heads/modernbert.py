"""`head=modernbert`: the classification head of ModernBERT (Warner et al. 2024)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import mean_over_tokens


class ModernBertHead(nn.Module):
    """Mean over the non-padding tokens → Linear(D, D) → GELU → LayerNorm → dropout → Linear(D, C).

    This is `ModernBertForSequenceClassification` of transformers with `classifier_pooling="mean"`. As in transformers,
    the first linear layer and the LayerNorm have no bias, and epsilon is 1e-5. Differences: dropout is 0.1 by default
    instead of 0, and the weights have the default initialization of `nn.Linear` instead of a truncated normal
    distribution.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gelu = nn.GELU()
        self.norm = nn.LayerNorm(hidden_size, eps=1e-5, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        pooled_BD = mean_over_tokens(hidden_BTD, mask_BT)
        return self.output(self.dropout(self.norm(self.gelu(self.dense(pooled_BD)))))
