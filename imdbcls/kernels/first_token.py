"""Compute the last layer of an encoder only for the first token, for heads that read only this token.

Shape suffixes: B documents, T tokens (padded), H hidden size, A attention heads, E = H / A width of a head.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_layers(layers: Iterable[Any], first_token_only: bool) -> tuple[list[Any], Any | None]:
    """Split the layers of BERT or RoBERTa into layers that compute all tokens, and the last layer for `first_token_of`.

    Without `first_token_only`, return (all layers, None). Also return this if the last layer has adapters, because
    `first_token_of` reads the weights directly and would ignore the adapters.
    """
    *below, last = layers
    projections = (last.attention.self.key, last.attention.self.value)
    if first_token_only and all(type(module) is nn.Linear for module in projections):
        return below, last
    return [*below, last], None


def first_token_of(layer: Any, hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the output of a BERT or RoBERTa layer at the first token, first_B1H, in float32.

    The query, the feed-forward part and the norms are computed only for this token. Keys and values are not computed at
    all (see `single_query_attention`). This takes a hundredth of the time of a complete layer, so float32 is fast
    enough. Call this function outside autocast. Attention dropout is not supported. The key bias gets no gradient,
    because the softmax does not depend on it.
    """
    hidden_BTH = hidden_BTH.float()
    first_BH = hidden_BTH[:, 0]
    attention = layer.attention.self
    query_BAE = attention.query(first_BH).unflatten(1, (attention.num_attention_heads, -1))
    context_BH = single_query_attention(
        query_BAE, hidden_BTH, mask_BT, attention.key.weight, attention.value.weight, attention.value.bias
    )
    attended_BH = layer.attention.output(context_BH, first_BH)
    return layer.output(layer.intermediate(attended_BH), attended_BH).unsqueeze(1)


def single_query_attention(
    query_BAE: Tensor,
    hidden_BTH: Tensor,
    mask_BT: Tensor,
    key_HH: Tensor,
    value_HH: Tensor,
    value_H: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax attention of one query per document over its tokens; return context_BH.

    Let h be the hidden state of a token, a its attention weight, K h + k its key, V h + v its value, and q the query.
    The keys and values are not computed. The score of a token is q · (K h + k) = (Kᵀ q) · h + q · k. So it is enough to
    multiply the hidden states by one vector Kᵀ q per attention head. The term q · k is the same for all tokens and
    does not change the softmax. In the same way, Σ a (V h + v) = V Σ a h + v Σ a, where Σ a is 1 without dropout.
    """
    num_heads, width = query_BAE.shape[1:]
    key_AEH, value_AEH = (weight_HH.view(num_heads, width, -1) for weight_HH in (key_HH, value_HH))
    projected_BAH = torch.einsum("bae,aeh->bah", query_BAE * width**-0.5, key_AEH)
    scores_BAT = torch.bmm(projected_BAH, hidden_BTH.transpose(1, 2)).float()
    weights_BAT = scores_BAT.masked_fill(~mask_BT.unsqueeze(1), float("-inf")).softmax(dim=2)
    if dropout > 0:  # as an argument of `F.dropout`, this comparison would break the graph of `torch.compile`
        weights_BAT = F.dropout(weights_BAT, dropout)
    pooled_BAH = torch.bmm(weights_BAT.to(hidden_BTH.dtype), hidden_BTH)
    context_BAE = torch.einsum("bah,aeh->bae", pooled_BAH, value_AEH)
    context_BAE = context_BAE + weights_BAT.sum(dim=2, keepdim=True) * value_H.view(num_heads, width)
    return context_BAE.flatten(1)
