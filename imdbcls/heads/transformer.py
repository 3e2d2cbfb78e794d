"""`head=transformer`: one more encoder layer, then the first token."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class TransformerHead(nn.Module):
    """One post-norm encoder layer (D/64 attention heads, feed-forward 4 D, GELU) → first token → Linear(D, C).

    The layer is the encoder layer of Vaswani et al. (2017), with GELU. It does not attend to padding.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            hidden_size,
            nhead=max(1, hidden_size // 64),
            dim_feedforward=4 * hidden_size,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
        )
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = self.layer(hidden_BTD, src_key_padding_mask=~mask_BT)
        return self.output(hidden_BTD[:, 0])
