"""`head=transformer`: one more encoder layer, then the first token."""

import torch.nn.functional as F
from torch import Tensor, nn

from imdbcls.kernels.first_token import attend_from


class TransformerHead(nn.Module):
    """One post-norm encoder layer (D/64 heads, feed-forward 4 D, GELU) → first token → Linear(D, C).

    The layer is Vaswani et al.'s (2017). Only the first token's output is read, so only its query, its feed-forward
    and its norms are computed, and no key or value of any token (`attend_from`): the same values as the full layer's at
    that token, for a fraction of the work. Padding is masked.
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        num_heads = max(1, hidden_size // 64)
        self.attention = nn.MultiheadAttention(hidden_size, num_heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        first_BD = hidden_BTD[:, 0]
        attended_BD = self.attend(first_BD, hidden_BTD, mask_BT)
        first_BD = self.attention_norm(first_BD + self.dropout(attended_BD))
        first_BD = self.feed_forward_norm(first_BD + self.dropout(self.feed_forward(first_BD)))
        return self.output(first_BD)

    def attend(self, query_BD: Tensor, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """What `self.attention` gives for one query of each document, attended_BD."""
        attention = self.attention
        query_DD, key_DD, value_DD = attention.in_proj_weight.chunk(3)
        query_D, _, value_D = attention.in_proj_bias.chunk(3)
        query_BAE = F.linear(query_BD, query_DD, query_D).unflatten(1, (attention.num_heads, -1))
        dropout = attention.dropout if self.training else 0.0
        return attention.out_proj(attend_from(query_BAE, hidden_BTD, mask_BT, key_DD, value_DD, value_D, dropout))
