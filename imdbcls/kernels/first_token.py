"""The last layer of an encoder whose head reads the first token alone: that token's output, and nothing for the others.

B: documents, T: tokens (padded), H: hidden size, A: attention heads, E = H / A: width of a head.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_layers(layers: Iterable[Any], first_token_only: bool) -> tuple[list[Any], Any | None]:
    """The layers of a BERT or RoBERTa encoder to run over all tokens, and the one for `first_token_of`, if any.

    None where all tokens are asked for, or where the last layer has adapters beside its weights, which are read here.
    """
    *below, last = layers
    projections = (last.attention.self.key, last.attention.self.value)
    if first_token_only and all(type(module) is nn.Linear for module in projections):
        return below, last
    return [*below, last], None


def first_token_of(layer: Any, hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """The layer's output at the first token, first_B1H, of a BERT or RoBERTa layer without attention dropout.

    Only there are a query, the feed-forward part and the norms computed, and no key or value of any token
    (`attend_from`): what is left is a hundredth of the layer's work. So it can be, and is, in float32: to be called
    outside autocast. The key's bias gets no gradient, for no softmax sees it.
    """
    hidden_BTH = hidden_BTH.float()
    first_BH = hidden_BTH[:, 0]
    attention = layer.attention.self
    query_BAE = attention.query(first_BH).unflatten(1, (attention.num_attention_heads, -1))
    context_BH = attend_from(
        query_BAE, hidden_BTH, mask_BT, attention.key.weight, attention.value.weight, attention.value.bias
    )
    attended_BH = layer.attention.output(context_BH, first_BH)
    return layer.output(layer.intermediate(attended_BH), attended_BH).unsqueeze(1)


def attend_from(
    query_BAE: Tensor,
    hidden_BTH: Tensor,
    mask_BT: Tensor,
    key_HH: Tensor,
    value_HH: Tensor,
    value_H: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention of one query of each document over its tokens, context_BH, by the weights of keys and values.

    A token's score is q · (K h + k) = (Kᵀ q) · h + q · k, so one vector of each head meets the hidden states instead of
    a query meeting T keys; q · k is the same for all tokens and the softmax loses it. Likewise Σ a (V h + v) is
    V Σ a h + v Σ a, and Σ a is 1 but for the dropout.
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
