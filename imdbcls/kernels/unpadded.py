"""Run BERT, RoBERTa and ModernBERT on CUDA without padding: the tokens of a batch are concatenated into one sequence.

The embeddings run on the padded batch, so that transformers handles positions, RoBERTa's position offset and padding
tokens inside a document. The layers run over the N non-padding tokens (for ModernBERT, see `unpadded_modernbert.py`).
Attention uses PyTorch's flash kernel for documents of different lengths (`varlen.py`), which gets the first row of each
document. At the end, the rows are scattered to the padded shape, with zeros at padding. Nothing synchronizes with the
device: `indices_N` comes from the host, and T is used as the maximum length.

Shape suffixes: B documents, T tokens (padded), N non-padding tokens of the batch, H hidden size, A attention heads,
D width of a head.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from imdbcls.kernels import first_token, unpadded_modernbert, varlen
from imdbcls.kernels.head_input import LAST_LAYER, HeadInput
from imdbcls.runtime.padding import cu_seqlens_of, with_padding

_MIN_CAPABILITY = (8, 0)  # lowest compute capability with the flash kernel and bfloat16


def fallback_reason(encoder: PreTrainedModel) -> str | None:
    """Return why this encoder cannot run without padding on CUDA, for log messages; None if it can."""
    config = encoder.config
    if config.model_type == "modernbert" and hasattr(encoder, "layers"):
        return unpadded_modernbert.fallback_reason(encoder)
    if config.model_type not in {"bert", "roberta"} or not hasattr(encoder, "encoder"):
        return f"{config.model_type} has no implementation without padding"
    if config.is_decoder or config.add_cross_attention:
        return "decoders have no implementation without padding"
    if config.attention_probs_dropout_prob > 0:
        return "attention dropout is above 0, which attention without padding does not support"
    return varlen.fallback_reason(config.hidden_size // config.num_attention_heads)


def enable(encoder: nn.Module) -> None:
    """Mark an encoder to run without padding. Copies of the encoder keep the mark."""
    encoder.is_unpadded = True  # type: ignore[assignment]


def is_enabled(encoder: Any) -> bool:
    """Return whether an encoder is marked by `enable` and does not use gradient checkpointing."""
    return getattr(encoder, "is_unpadded", False) and not any(
        getattr(layer, "gradient_checkpointing", False) for layer in _layers(encoder)
    )


def applies(device: torch.device) -> bool:
    """Return whether the flash kernel can run: on an NVIDIA GPU, Ampere or later, under autocast to bfloat16."""
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= _MIN_CAPABILITY
        and torch.backends.cuda.is_flash_attention_available()
    )


def encode(
    encoder: Any,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    indices_N: Tensor,
    head_input: HeadInput = LAST_LAYER,
    token_types_BT: Tensor | None = None,
) -> Tensor:
    """Return the hidden states that a head reads, hidden_BTH, first_B1H or hidden_LBTH.

    Hidden states at padding are zero, unlike in transformers. If the head reads first tokens, the last layer of BERT
    and RoBERTa computes only the first token, unless the layer has adapters. ModernBERT ignores `token_types_BT`.
    """
    boundaries = varlen.CuSeqlens(cu_seqlens_of(mask_BT).to(torch.int32), mask_BT.shape[1])
    last = None  # the layer that computes only the first token
    if encoder.config.model_type == "modernbert":
        computed_NH = unpadded_modernbert.hidden_states(encoder, input_ids_BT, indices_N, boundaries)
    else:
        layers, last = first_token.split_layers(_layers(encoder), head_input.tokens == "first")
        embedded_BTH = encoder.embeddings(input_ids=input_ids_BT, token_type_ids=token_types_BT)
        embedded_NH = embedded_BTH.flatten(0, 1).index_select(0, indices_N)
        computed_NH = _hidden_states(layers, embedded_NH, boundaries)

    def vectors(state_NH: Tensor) -> Tensor:
        if head_input.pools and head_input.tokens == "first":
            return head_input.packed_vectors(state_NH, boundaries.starts)
        return head_input.vectors(with_padding(state_NH, mask_BT, indices_N), mask_BT)

    first_state = head_input.first_state(encoder.config.num_hidden_layers)
    states_BTH = []
    for number, hidden_NH in enumerate(computed_NH):
        if number >= first_state:
            states_BTH.append(vectors(hidden_NH))
    if last is not None:
        hidden_BTH = with_padding(hidden_NH, mask_BT, indices_N)
        with torch.autocast("cuda", enabled=False):
            states_BTH.append(first_token.first_token_of(last, hidden_BTH, mask_BT))
    return states_BTH[-1] if head_input.layers == "last" else torch.stack(states_BTH)


def _layers(encoder: Any) -> nn.ModuleList:
    return encoder.layers if encoder.config.model_type == "modernbert" else encoder.encoder.layer


def _hidden_states(layers: Iterable[Any], hidden_NH: Tensor, boundaries: varlen.CuSeqlens) -> Iterator[Tensor]:
    """Yield the embeddings and the output of each layer of a BERT or RoBERTa."""
    yield hidden_NH
    for layer in layers:
        hidden_NH = _layer(layer, hidden_NH, boundaries)
        yield hidden_NH


def _layer(layer: Any, hidden_NH: Tensor, boundaries: varlen.CuSeqlens) -> Tensor:
    """Run a BERT or RoBERTa layer with its own modules, except for the computation of the attention."""
    attention = layer.attention.self

    def heads(projection: nn.Module) -> Tensor:
        return projection(hidden_NH).unflatten(1, (attention.num_attention_heads, -1))

    context_NAD = varlen.attention(heads(attention.query), heads(attention.key), heads(attention.value), boundaries)
    attended_NH = layer.attention.output(context_NAD.flatten(1), hidden_NH)
    return layer.output(layer.intermediate(attended_NH), attended_NH)
