"""`head=scalar_mix`: a learned weighted average of all layers (ELMo, Peters et al. 2018)."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import token_mean


class ScalarMixHead(nn.Module):
    """g Σ_l s_l h_l for each token → mean over the non-padding tokens → dropout → Linear(D, C).

    This is equation 1 of Peters et al. (2018), where g is called gamma. The sum includes the embeddings (l = 0). The
    weights s are a softmax over one learned logit per layer. The logits start at zero and g at one, so training starts
    from the mean of the layers. The paper's optional layer norm is not used. The paper passes the mixed token vectors
    to a task model; this head averages them.

    The mean over the tokens is computed first: mean_t Σ_l s_l h_lt = Σ_l s_l mean_t h_lt.
    """

    reads_all_layers = True

    def __init__(
        self, *, hidden_size: int, num_labels: int, num_hidden_states: int, dropout: Annotated[float, Ge(0), Lt(1)]
    ) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_hidden_states))
        self.scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        means_LBD = token_mean(hidden_LBTD, mask_BT)
        weights_L11 = self.layer_logits.float().softmax(dim=0)[:, None, None]
        mixed_BD = self.scale * (weights_L11 * means_LBD).sum(dim=0)
        return self.output(self.dropout(mixed_BD))
