"""`head=max_seq`: each token's maximum over the last layers, then attention (MaxPoolBERT, Behrendt et al. 2025)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class MaxSeqHead(nn.Module):
    """Maximum over the last `num_layers` layers, per token and dimension → attention → dropout → Linear(D, C).

    The query of the attention is the first token; keys and values are all non-padding tokens. This is the variant
    Max_Seq + MHA of Behrendt, Wagner and Harmeling (2025, arXiv 2505.15696). The defaults, three layers and four
    attention heads, are the values in the paper.
    """

    reads_last_layers = True

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        num_layers: Annotated[int, Ge(1)],
        num_heads: Annotated[int, Ge(1)],
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide the hidden size of the encoder, {hidden_size}")
        self.num_layers = num_layers
        self.attention = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        largest_BTD = hidden_LBTD.amax(dim=0)
        attended_B1D, _ = self.attention(
            largest_BTD[:, :1], largest_BTD, largest_BTD, key_padding_mask=~mask_BT, need_weights=False
        )
        return self.output(self.dropout(attended_B1D.squeeze(1)))
