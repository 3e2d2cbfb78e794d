"""Run BERT and RoBERTa on CUDA without padding: the tokens of a batch are concatenated into one sequence.

The embeddings run on the padded batch, so that transformers handles positions, RoBERTa's position offset and padding
tokens inside a document. The layers run over the N non-padding tokens. Attention uses PyTorch's flash kernel for
documents of different lengths (`varlen_attn`), which gets the first row of each document. At the end, the rows are
scattered to the padded shape, with zeros at padding. Nothing synchronizes with the device: `indices_N` comes from the
host, and T is used as the maximum length.

Shape suffixes: B documents, T tokens (padded), N non-padding tokens of the batch, H hidden size, A attention heads,
D width of a head.
"""

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from imdbcls.kernels import first_token
from imdbcls.kernels.head_input import LAST_LAYER, HeadInput
from imdbcls.runtime.padding import cu_seqlens_of, with_padding

varlen_attn: Any = None  # available since PyTorch 2.10
if find_spec("torch.nn.attention.varlen") is not None:
    from torch.nn.attention.varlen import varlen_attn

_MODEL_TYPES = {"bert", "roberta"}
_MAX_HEAD_WIDTH = 256  # limit of the flash kernel, which also requires that the width is a multiple of 8
_MIN_CAPABILITY = (8, 0)  # lowest compute capability with the flash kernel and bfloat16


class CuSeqlens(NamedTuple):
    """The boundaries of the documents in the concatenated sequence."""

    starts: Tensor  # int32 (B + 1): the first row of each document, then N
    longest: int  # an upper bound for the number of tokens in a document


def fallback_reason(encoder: PreTrainedModel) -> str | None:
    """Return why this encoder cannot run without padding on CUDA, for log messages; None if it can."""
    config = encoder.config
    if config.model_type not in _MODEL_TYPES or not hasattr(encoder, "encoder"):
        return f"{config.model_type} has no implementation without padding"
    if config.is_decoder or config.add_cross_attention:
        return "decoders have no implementation without padding"
    if config.attention_probs_dropout_prob > 0:
        return "attention dropout is above 0, which attention without padding does not support"
    width = config.hidden_size // config.num_attention_heads
    if width % 8 or width > _MAX_HEAD_WIDTH:
        return f"its attention heads have width {width}; flash attention needs multiples of 8 up to {_MAX_HEAD_WIDTH}"
    if varlen_attn is None:
        return f"PyTorch {torch.__version__} has no attention without padding (varlen_attn)"
    return None


def enable(encoder: nn.Module) -> None:
    """Mark an encoder to run without padding. Copies of the encoder keep the mark."""
    encoder.is_unpadded = True  # type: ignore[assignment]


def is_enabled(encoder: Any) -> bool:
    """Return whether an encoder is marked by `enable` and does not use gradient checkpointing."""
    return getattr(encoder, "is_unpadded", False) and not any(
        getattr(layer, "gradient_checkpointing", False) for layer in encoder.encoder.layer
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

    Hidden states at padding are zero, unlike in transformers. If the head reads first tokens, the last layer computes
    only the first token, unless the layer has adapters.
    """
    layers, last = first_token.split_layers(encoder.encoder.layer, head_input.tokens == "first")
    first_state = head_input.first_state(encoder.config.num_hidden_layers)
    embedded_BTH = encoder.embeddings(input_ids=input_ids_BT, token_type_ids=token_types_BT)
    boundaries = CuSeqlens(cu_seqlens_of(mask_BT).to(torch.int32), mask_BT.shape[1])
    hidden_NH = embedded_BTH.flatten(0, 1).index_select(0, indices_N)
    states_NH = [hidden_NH]
    for number, layer in enumerate(layers):
        hidden_NH = _layer(layer, hidden_NH, boundaries)
        states_NH = [*states_NH, hidden_NH] if number >= first_state else [hidden_NH]

    def vectors(state_NH: Tensor) -> Tensor:
        if head_input.pools and head_input.tokens == "first":
            return head_input.packed_vectors(state_NH, boundaries.starts)
        return head_input.vectors(with_padding(state_NH, mask_BT, indices_N), mask_BT)

    lower_NH = states_NH if last is None or len(layers) >= first_state else []
    states_BTH = [vectors(state_NH) for state_NH in lower_NH]
    if last is not None:
        hidden_BTH = with_padding(states_NH[-1], mask_BT, indices_N)
        with torch.autocast("cuda", enabled=False):
            states_BTH.append(first_token.first_token_of(last, hidden_BTH, mask_BT))
    return states_BTH[-1] if head_input.layers == "last" else torch.stack(states_BTH)


def _layer(layer: Any, hidden_NH: Tensor, boundaries: CuSeqlens) -> Tensor:
    """Run a BERT or RoBERTa layer with its own modules, except for the computation of the attention."""
    attention = layer.attention.self

    def heads(projection: nn.Module) -> Tensor:
        return projection(hidden_NH).unflatten(1, (attention.num_attention_heads, -1))

    context_NAD = _attention(heads(attention.query), heads(attention.key), heads(attention.value), boundaries)
    attended_NH = layer.attention.output(context_NAD.flatten(1), hidden_NH)
    return layer.output(layer.intermediate(attended_NH), attended_NH)


def _attention(query_NAD: Tensor, key_NAD: Tensor, value_NAD: Tensor, boundaries: CuSeqlens) -> Tensor:
    """Compute softmax attention within each document; return context_NAD. The CUDA kernel needs bfloat16 or float16."""
    if query_NAD.device.type == "cpu":
        return _attention_one_by_one(query_NAD, key_NAD, value_NAD, boundaries)
    starts, longest = boundaries
    return varlen_attn(query_NAD, key_NAD, value_NAD, starts, starts, longest, longest)


def _attention_one_by_one(query_NAD: Tensor, key_NAD: Tensor, value_NAD: Tensor, boundaries: CuSeqlens) -> Tensor:
    """Compute attention on the CPU, document by document. Only tests use this function."""
    lengths = boundaries.starts.diff().tolist()
    contexts_AND = [
        F.scaled_dot_product_attention(*(part_NAD.transpose(0, 1).unsqueeze(0) for part_NAD in document)).squeeze(0)
        for document in zip(*(tensor.split(lengths) for tensor in (query_NAD, key_NAD, value_NAD)), strict=True)
    ]
    return torch.cat(contexts_AND, dim=1).transpose(0, 1)
