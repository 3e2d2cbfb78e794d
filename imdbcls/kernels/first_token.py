"""Compute the last layer of an encoder only for the first token, for heads that read no other.

B: documents, T: tokens (padded), H: hidden size, A: attention heads, E = H / A: width of a head.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_layers(layers: Iterable[Any], first_token_only: bool) -> tuple[list[Any], Any | None]:
    """Return a BERT or RoBERTa encoder's layers to run over all tokens, and the layer for `first_token_of` or None.

    It is None without `first_token_only`, or if the last layer has adapters: `first_token_of` reads weights directly.
    """
    *below, last = layers
    projections = (last.attention.self.key, last.attention.self.value)
    if first_token_only and all(type(module) is nn.Linear for module in projections):
        return below, last
    return [*below, last], None


def first_token_of(layer: Any, hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Return a BERT or RoBERTa layer's output at the first token, first_B1H, float32. It has no attention dropout.

    Query, feed-forward part and norms are computed only for that token, and keys and values not at all
    (`single_query_attention`). This is a hundredth of the layer's work, so it computes in float32; call it outside
    autocast. The key's bias gets no gradient, because the softmax does not depend on it.
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
    """Return softmax attention of one query per document over its tokens, context_BH, from key and value weights.

    A token's score is q · (K h + k) = (Kᵀ q) · h + q · k. So one vector per attention head is multiplied with the
    hidden states, and no keys are computed. q · k is the same for all tokens, so the softmax does not depend on it. In
    the same way Σ a (V h + v) = V Σ a h + v Σ a, where Σ a is 1 without dropout.
    """
    num_heads, width = query_BAE.shape[1:]
    key_AEH, value_AEH = (weight_HH.view(num_heads, width, -1) for weight_HH in (key_HH, value_HH))
    asked_BAH = torch.einsum("bae,aeh->bah", query_BAE * width**-0.5, key_AEH)
    scores_BAT = torch.bmm(asked_BAH, hidden_BTH.transpose(1, 2)).float()
    weights_BAT = scores_BAT.masked_fill(~mask_BT.unsqueeze(1), float("-inf")).softmax(dim=2)
    weights_BAT = F.dropout(weights_BAT, dropout, dropout > 0)
    pooled_BAH = torch.bmm(weights_BAT.to(hidden_BTH.dtype), hidden_BTH)
    context_BAE = torch.einsum("bah,aeh->bae", pooled_BAH, value_AEH)
    context_BAE = context_BAE + weights_BAT.sum(dim=2, keepdim=True) * value_H.view(num_heads, width)
    return context_BAE.flatten(1)
