"""Run the layers of ModernBERT (Warner et al. 2024) over the non-padding tokens of a batch.

Shape suffixes: B documents, T tokens (padded), N non-padding tokens of the batch, H hidden size, A attention heads,
D width of a head.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, arange
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from imdbcls.kernels import varlen

_SLIDING = "sliding_attention"  # the other type of layer is "full_attention"


def fallback_reason(encoder: Any) -> str | None:
    """Return why a ModernBERT cannot run without padding on CUDA, for log messages; None if it can."""
    config = encoder.config
    if config.attention_dropout > 0:
        return "attention dropout is above 0, which attention without padding does not support"
    head_width = config.hidden_size // config.num_attention_heads
    return varlen.fallback_reason(head_width, sliding_window=_SLIDING in config.layer_types)


def hidden_states(
    encoder: Any, input_ids_BT: Tensor, indices_N: Tensor, boundaries: varlen.CuSeqlens
) -> Iterator[Tensor]:
    """Yield hidden_NH of the embeddings and of each layer. As in transformers, the last one is normalized.

    Each layer runs with its own modules, except for the computation of the attention. `encoder.rotary_emb` computes the
    rotation of each position once per layer type. Padding is on the right, so the flat index of a token modulo T is its
    position.
    """
    config, num_tokens = encoder.config, input_ids_BT.shape[1]
    hidden_NH = encoder.embeddings(input_ids_BT).flatten(0, 1).index_select(0, indices_N)
    yield hidden_NH
    positions_1T = arange(num_tokens, device=input_ids_BT.device).unsqueeze(0)
    positions_N = indices_N % num_tokens
    rotations = {
        layer_type: tuple(
            table_1TD.squeeze(0).index_select(0, positions_N)
            for table_1TD in encoder.rotary_emb(hidden_NH, positions_1T, layer_type)
        )
        for layer_type in sorted(set(config.layer_types))
    }
    for number, (layer, layer_type) in enumerate(zip(encoder.layers, config.layer_types, strict=True), start=1):
        window = config.local_attention // 2 if layer_type == _SLIDING else None
        hidden_NH = _layer(layer, hidden_NH, rotations[layer_type], boundaries, window)
        yield encoder.final_norm(hidden_NH) if number == len(encoder.layers) else hidden_NH


def _layer(
    layer: Any, hidden_NH: Tensor, rotation: tuple[Tensor, ...], boundaries: varlen.CuSeqlens, window: int | None
) -> Tensor:
    """Run a pre-norm layer; `rotation` has the cosines and sines of each token's position, both of shape (N, D)."""
    attention = layer.attn
    qkv_N3AD = attention.Wqkv(layer.attn_norm(hidden_NH)).unflatten(1, (3, -1, attention.head_dim))
    query_NAD, key_NAD, value_NAD = qkv_N3AD.unbind(1)
    query_NAD, key_NAD = apply_rotary_pos_emb(query_NAD, key_NAD, *rotation)
    context_NAD = varlen.attention(query_NAD, key_NAD, value_NAD, boundaries, window)
    hidden_NH = hidden_NH + attention.out_drop(attention.Wo(context_NAD.flatten(1)))
    return hidden_NH + layer.mlp(layer.mlp_norm(hidden_NH))
