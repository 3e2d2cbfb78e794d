"""Choose the implementation that runs an encoder: fast CPU layers, CUDA without padding, or its own `forward`.

Shape suffixes: L layers, B documents, T tokens, N non-padding tokens, D hidden size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from imdbcls.kernels import encoder as cpu
from imdbcls.kernels import unpadded
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
    first_token_only: bool = False,
    all_layers: bool = False,
    compile: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None,
) -> Tensor:
    """Return the last hidden states, hidden_BTD, in float32 or the autocast dtype.

    - `mask_BT`: bool, True at non-padding tokens. Padding is on the right.
    - `token_indices_N`: flat indices of the non-padding tokens. If None, they are computed here, which may wait for
      CUDA.
    - `all_layers`: return hidden_LBTD instead: the embeddings, then each layer.
    - `first_token_only`: compute only the first token in the last layer, and return hidden_B1D in float32. This option
      has no effect if the encoder does not support it, or with `all_layers`.
    - `compile`: applied to the function that runs the encoder, for example `torch.compile`; None to run it uncompiled.
    """
    wrap = compile or (lambda function: function)
    if unpadded.is_enabled(encoder) and unpadded.applies(input_ids_BT.device):
        indices_N = token_indices(mask_BT) if token_indices_N is None else token_indices_N
        return wrap(unpadded.encode)(encoder, input_ids_BT, mask_BT, indices_N, first_token_only, all_layers)
    if all_layers:
        return wrap(encode_all_layers)(encoder, input_ids_BT, attention_mask(encoder, mask_BT))
    only_first = first_token_only and cpu.is_accelerated(encoder)
    return wrap(encode_padded)(encoder, input_ids_BT, attention_mask(encoder, mask_BT), only_first)


def encode_padded(encoder: nn.Module, input_ids_BT: Tensor, attention_mask: Any, first_token_only: bool) -> Tensor:
    """Run the encoder's `forward`, which `accelerate` may have replaced; return hidden_BTD or hidden_B1D."""
    options = {"first_token_only": True} if first_token_only else {}
    hidden: Tensor = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, **options).last_hidden_state
    return hidden


def encode_all_layers(encoder: nn.Module, input_ids_BT: Tensor, attention_mask: Any) -> Tensor:
    """Run the encoder's `forward`, which `accelerate` may have replaced; return hidden_LBTD, the embeddings first."""
    output = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, output_hidden_states=True)
    return torch.stack(output.hidden_states)
