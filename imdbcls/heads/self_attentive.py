"""`head=self_attentive`: several attention-weighted averages of the token vectors (Lin et al. 2017).

Shape suffixes: see `imdbcls.heads`; R weighted averages ("hops" in the paper).
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import masked_softmax


class SelfAttentiveHead(nn.Module):
    """A = softmax of W_2 tanh(W_1 Hᵀ) over the non-padding tokens → A H → dropout → Linear(R D, C).

    These are equations 6 and 7 of Lin et al. (2017). By default, `attention_size` (d_a) is 350 and `num_hops` (R) is
    30, as in the paper. W_1 and W_2 have no bias, also as in the paper. Differences: H is the output of the encoder
    instead of a BiLSTM, and one linear layer replaces the paper's multilayer perceptron. The penalty on similar hops
    (equation 8) is omitted, because a head returns only logits.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        attention_size: Annotated[int, Gt(0)],
        num_hops: Annotated[int, Gt(0)],
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, attention_size, bias=False)
        self.hops = nn.Linear(attention_size, num_hops, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(num_hops * hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        weights_BRT = self.weights_of_hops(hidden_BTD, mask_BT).to(hidden_BTD.dtype)
        averages_BRD = torch.bmm(weights_BRT, hidden_BTD)
        return self.output(self.dropout(averages_BRD.flatten(1)))

    def weights_of_hops(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the weights A of each hop in float32, weights_BRT; zero at padding."""
        scores_BRT = self.hops(self.projection(hidden_BTD).tanh()).transpose(1, 2)
        return masked_softmax(scores_BRT, mask_BT.unsqueeze(1))

    def pooling_weights(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the mean of the hops' weights for each token, weights_BT, as in the paper's section 2.3."""
        return self.weights_of_hops(hidden_BTD, mask_BT).mean(dim=1)
