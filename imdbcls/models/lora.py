"""LoRA (Hu et al. 2022) with the peft library: train only a low-rank update of each linear layer of the encoder.

A layer computes with W + SCALE * B A instead of its weights W. A has `rank` rows and B has `rank` columns. W stays
constant.
"""

from typing import Any

import torch
from torch import nn

from imdbcls.errors import UserError
from imdbcls.kernels import restore_library_forward
from imdbcls.models.classifier import Classifier, copy_of

# The value of peft's lora_alpha / r; 2 is usual. It scales the update, much as the learning rate does (section 4.1).
SCALE = 2
FALLBACK_REASON = (
    "LoRA adapters need the layers of the transformers library; evaluation merges the adapters and can use the fast "
    "layers"
)


def require_peft() -> Any:
    """Import and return peft; raise UserError if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "backbone.lora_rank needs the package peft, which is not installed: pip install peft."
        ) from error
    return peft


def with_adapters(model: Classifier, rank: int) -> Classifier:
    """Freeze the encoder of a model, copy the model, and add adapters to the copy.

    Only the adapters and the head of the copy are trainable.

    All linear layers get an adapter, not only the layers of the attention, because the model then learns more with the
    same number of parameters. The update starts at zero, so the output of the copy initially equals the output of
    `model`. The copy uses the library's own layers, because the fast layers read the weights directly and would ignore
    the adapters.
    """
    peft = require_peft()
    model.encoder.requires_grad_(False)
    adapted = copy_of(model)
    encoder: Any = adapted.encoder
    restore_library_forward(encoder)
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(
            f"backbone.lora_rank={rank}: {type(encoder).__name__} has no nn.Linear layers to adapt. Set "
            "backbone.lora_rank=null."
        )
    settings = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, target_modules=linear)
    for name in linear:  # do not share these weights, because `merge` overwrites them in `model`
        layer = encoder.get_submodule(name)
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    peft.inject_adapter_in_model(settings, encoder)
    return adapted


@torch.no_grad()
def merge(adapted: Classifier, model: Classifier) -> None:
    """Write the weights of `adapted`, with its adapters merged, into `model`, which has no adapters."""
    encoder: Any = model.encoder
    layers: Any = adapted.encoder.named_modules()
    for name, layer in layers:
        if hasattr(layer, "lora_A"):
            weight = layer.base_layer.weight + layer.get_delta_weight("default")
            encoder.get_submodule(name).weight.copy_(weight)
    model.head.load_state_dict(adapted.head.state_dict())
