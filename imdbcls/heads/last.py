"""`head=last`: one linear layer on the last non-padding token's vector, as in GPT (Radford et al. 2018)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import last_real_token


class LastHead(nn.Module):
    """Last non-padding token → dropout → Linear(D, C).

    This is equation 3 of Radford et al. (2018, GPT): the logits are h_m W_y, where h_m is the final vector of the last
    token. In the paper, this token is a special token that fine-tuning adds; here it is the tokenizer's end token, such
    as `</s>` or `[SEP]`. Differences: this head has a bias, and the paper's additional language modelling loss is
    omitted.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(self.dropout(last_real_token(hidden_BTD, mask_BT)))
