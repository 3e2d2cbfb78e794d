"""`head=layer_attention`: attention over the first token's vectors of all layers (Song et al. 2020)."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn


class LayerAttentionHead(nn.Module):
    """Σ_l a_l h_l over the first token of each layer → Linear(D, D) → dropout → Linear(D, C); a_l = softmax of q · h_l.

    This is the attention pooling of Song et al. (2020, arXiv 2002.04815), section 3. The learned query q is the same
    for all documents. It starts at zero, so training starts from the mean over the layers. As in the paper, the
    embeddings are not read: at the first token, they are the same for all documents.
    """

    reads_all_layers = True

    def __init__(
        self, *, hidden_size: int, num_labels: int, num_hidden_states: int, dropout: Annotated[float, Ge(0), Lt(1)]
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(hidden_size))
        self.projection = nn.Linear(hidden_size, hidden_size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        first_LBD = hidden_LBTD[1:, :, 0].float()
        weights_LB = (first_LBD * self.query).sum(dim=2).softmax(dim=0)
        pooled_BD = (weights_LB.unsqueeze(2) * first_LBD).sum(dim=0)
        return self.output(self.dropout(self.projection(pooled_BD)))
