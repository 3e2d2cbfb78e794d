"""`head=transformer`: one more encoder layer, then the first token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        attended_BD = attend_from(first_BD, hidden_BTD, mask_BT, self.attention)
        first_BD = self.attention_norm(first_BD + self.dropout(attended_BD))
        first_BD = self.feed_forward_norm(first_BD + self.dropout(self.feed_forward(first_BD)))
        return self.output(first_BD)


def attend_from(query_BD: Tensor, hidden_BTD: Tensor, mask_BT: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    """What `attention` gives for one query of each document, attended_BD (A heads of width E, D = A * E).

    A token's score is q · (K h + k) = (Kᵀ q) · h + q · k, so one vector of each head meets the hidden states instead of
    a query meeting T keys; q · k is the same for all tokens and the softmax loses it. Likewise Σ a (V h + v) is
    V Σ a h + v Σ a, and Σ a is 1 but for the dropout.
    """
    shape_AED = (attention.num_heads, -1, query_BD.shape[1])
    query_DD, key_DD, value_DD = attention.in_proj_weight.chunk(3)
    query_D, _, value_D = attention.in_proj_bias.chunk(3)
    query_BAE = F.linear(query_BD, query_DD, query_D).unflatten(1, shape_AED[:2])
    scale = query_BAE.shape[2] ** -0.5
    asked_BAD = torch.einsum("bae,aed->bad", query_BAE * scale, key_DD.view(shape_AED))
    scores_BAT = torch.bmm(asked_BAD, hidden_BTD.transpose(1, 2)).float()
    weights_BAT = scores_BAT.masked_fill(~mask_BT.unsqueeze(1), float("-inf")).softmax(dim=2)
    weights_BAT = F.dropout(weights_BAT, attention.dropout, attention.training)
    pooled_BAD = torch.bmm(weights_BAT.to(hidden_BTD.dtype), hidden_BTD)
    context_BAE = torch.einsum("bad,aed->bae", pooled_BAD, value_DD.view(shape_AED))
    context_BAE = context_BAE + weights_BAT.sum(dim=2, keepdim=True) * value_D.view(shape_AED[:2])
    return attention.out_proj(context_BAE.flatten(1))
