"""Choose how an encoder runs: CPU layers, CUDA without padding, or the library's own `forward`.

L layers, B documents, T tokens, N non-padding tokens, D hidden size.
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
    """Why an encoder runs as the library wrote it, in words for the user; None where it is accelerated."""

    cpu_training: str | None
    cuda: str | None


def accelerate(encoder: PreTrainedModel) -> Fallbacks:
    """Prepare an encoder in place: its CPU layers and its CUDA path without padding, each where it applies.

    Parameters and the state dict stay as they are. An encoder that is not known keeps its own `forward`.
    """
    fallbacks = Fallbacks(cpu_training=cpu.accelerate(encoder), cuda=unpadded.fallback_reason(encoder))
    if fallbacks.cuda is None:
        unpadded.enable(encoder)
    return fallbacks


def is_accelerated_on_cpu(encoder: nn.Module) -> bool:
    """Return whether the encoder's `forward` runs the CPU layers."""
    return cpu.is_accelerated(encoder)


def restore_library_forward(encoder: nn.Module) -> None:
    """Give an encoder its library's `forward` back on the CPU: the CPU layers would ignore adapters."""
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
    """Return an encoder's last hidden states_BTD, or with `all_layers` hidden_LBTD: the embeddings, then every layer.

    They are float32 or the autocast type. `mask_BT` is bool, True at tokens; padding is on the right. `token_indices_N`
    are the flat indices of the tokens in it: without them, CUDA has to wait for the device. With `first_token_only`,
    which `all_layers` excludes, the result may be hidden_B1D (float32): an accelerated encoder then computes only the
    first token in its last layer. `compile` wraps the function that computes, for example by `torch.compile`.
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
    """Run the encoder's own `forward`, which `accelerate` may have replaced; hidden_BTD, or hidden_B1D."""
    options = {"first_token_only": True} if first_token_only else {}
    hidden: Tensor = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, **options).last_hidden_state
    return hidden


def encode_all_layers(encoder: nn.Module, input_ids_BT: Tensor, attention_mask: Any) -> Tensor:
    """Run the encoder's own `forward`, which `accelerate` may have replaced; hidden_LBTD, the embeddings first."""
    output = encoder(input_ids=input_ids_BT, attention_mask=attention_mask, output_hidden_states=True)
    return torch.stack(output.hidden_states)
