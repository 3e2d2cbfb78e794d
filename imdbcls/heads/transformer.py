"""`head=transformer`: one more encoder layer, then the first token."""

from torch import Tensor, nn


class TransformerHead(nn.Module):
    """One post-norm encoder layer (D/64 heads, feed-forward 4 D, GELU) → first token → Linear(D, C).

    The layer is Vaswani et al.'s (2017). Only the first token's output is read, so only its query, its feed-forward
    and its norms are computed: the same values as the full layer's at that token, for a fraction of the work. Keys at
    padding are masked.
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
        first_B1D = hidden_BTD[:, :1]
        attended_B1D, _ = self.attention(
            first_B1D, hidden_BTD, hidden_BTD, key_padding_mask=~mask_BT, need_weights=False
        )
        first_B1D = self.attention_norm(first_B1D + self.dropout(attended_B1D))
        first_B1D = self.feed_forward_norm(first_B1D + self.dropout(self.feed_forward(first_B1D)))
        return self.output(first_B1D[:, 0])
