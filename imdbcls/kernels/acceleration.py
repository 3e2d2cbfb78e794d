"""Choose the implementation that runs an encoder: fast CPU layers, CUDA without padding, or its own `forward`.

Shape suffixes: L layers, B documents, T tokens, N non-padding tokens, D hidden size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from imdbcls.kernels import encoder as cpu
from imdbcls.kernels import unpadded
from imdbcls.kernels.head_input import LAST_LAYER, HeadInput
from imdbcls.kernels.masks import attention_mask
from imdbcls.runtime.padding import token_indices


class Fallbacks(NamedTuple):
    """The reasons why an encoder is not accelerated, for log messages; None where it is accelerated."""

    cpu_training: str | None
    cuda: str | None


def accelerate(encoder: PreTrainedModel) -> Fallbacks:
    """Prepare an encoder in place for the fast CPU layers and for CUDA without padding, if it supports them.

    Its parameters and state dict do not change. An unsupported encoder keeps its own `forward`.
    """
    fallbacks = Fallbacks(cpu_training=cpu.accelerate(encoder), cuda=unpadded.fallback_reason(encoder))
    if fallbacks.cuda is None:
        unpadded.enable(encoder)
    return fallbacks


def is_accelerated_on_cpu(encoder: nn.Module) -> bool:
    """Return whether `accelerate` has given the encoder a `forward` with the fast CPU layers."""
    return cpu.is_accelerated(encoder)


def restore_library_forward(encoder: nn.Module) -> None:
    """Undo `accelerate` on the CPU, for example because the fast layers would ignore adapters."""
    encoder.__dict__.pop("forward", None)


def encode(
    encoder: nn.Module,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    token_indices_N: Tensor | None = None,
    *,
    head_input: HeadInput = LAST_LAYER,
    token_types_BT: Tensor | None = None,
    compile: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None,
) -> Tensor:
    """Return the hidden states that a head reads: hidden_BTD or hidden_LBTD, in float32 or the autocast dtype.

    - `mask_BT`: bool, True at non-padding tokens. Padding is on the right.
    - `token_indices_N`: flat indices of the non-padding tokens. If None, they are computed here, which may wait for
      CUDA.
    - `head_input`: which layers and which vectors of each layer. With "first", an accelerated BERT or
      RoBERTa computes only the first token in its last layer. Other encoders compute all tokens.
    - `token_types_BT`: int64, the token types of pairs of texts; None: the encoder's default.
    - `compile`: applied to the function that runs the encoder, for example `torch.compile`; None to run it uncompiled.
    """
    wrap = compile or (lambda function: function)
    if unpadded.is_enabled(encoder) and unpadded.applies(input_ids_BT.device):
        indices_N = token_indices(mask_BT) if token_indices_N is None else token_indices_N
        return wrap(unpadded.encode)(encoder, input_ids_BT, mask_BT, indices_N, head_input, token_types_BT)
    padded_mask = attention_mask(encoder, mask_BT)
    return wrap(encode_padded)(encoder, input_ids_BT, mask_BT, padded_mask, head_input, token_types_BT)


def encode_padded(
    encoder: nn.Module,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    attention_mask: Any,
    head_input: HeadInput,
    token_types_BT: Tensor | None,
) -> Tensor:
    """Run the encoder's `forward`, which `accelerate` may have replaced; return hidden_BTD, hidden_B1D or hidden_LBTD.

    `attention_mask` is `mask_BT` in the form that the encoder expects.
    """
    options: dict[str, Any] = {"head_input": head_input} if cpu.is_accelerated(encoder) else {}
    if token_types_BT is not None:
        options["token_type_ids"] = token_types_BT
    if head_input.layers == "last":
        hidden: Tensor = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, **options).last_hidden_state
        return hidden
    output = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, output_hidden_states=True, **options)
    return head_input.select(output.hidden_states, mask_BT)
