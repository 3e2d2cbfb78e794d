"""LoRA (Hu et al. 2022) by the peft library: train only a low-rank update of each linear layer of the encoder.

A layer with weights W computes with W + SCALE B A: A has `rank` rows, B as many columns, and W stays constant.
"""

from typing import Any

import torch
from torch import nn

from imdbcls.errors import UserError
from imdbcls.kernels import restore_library_forward
from imdbcls.models.classifier import Classifier, copy_of

# peft's lora_alpha / r, 2 as is usual: it rescales the update much as the learning rate does (section 4.1).
SCALE = 2
FALLBACK_REASON = (
    "adapters are trained through the library's layers; scoring, with the adapters merged, takes the fast ones"
)


def require_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "backbone.lora_rank needs the library peft, which is not installed: pip install peft (or imdbcls[lora])."
        ) from error
    return peft


def with_adapters(model: Classifier, rank: int) -> Classifier:
    """Copy a model and add adapters to the copy; only they and the head are trained.

    Every linear layer gets an adapter, not only the attention's: it learns more for the same number of parameters. The
    update starts at zero, so the copy computes the same as the model. It uses the library's layers: the fast ones read
    the weights directly and would ignore the adapters.
    """
    peft = require_peft()
    model.encoder.requires_grad_(False)
    adapted = copy_of(model)
    encoder: Any = adapted.encoder
    restore_library_forward(encoder)
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"backbone.lora_rank={rank}: {type(encoder).__name__} has no nn.Linear layers to adapt.")
    settings = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, target_modules=linear)
    for name in linear:  # `merge` writes into the model's own weights
        layer = encoder.get_submodule(name)
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    peft.inject_adapter_in_model(settings, encoder)
    return adapted


@torch.no_grad()
def merge(adapted: Classifier, model: Classifier) -> None:
    """Write the merged weights of an adapted copy into the model that it was copied from, which has no adapters."""
    encoder: Any = model.encoder
    layers: Any = adapted.encoder.named_modules()
    for name, layer in layers:
        if hasattr(layer, "lora_A"):
            weight = layer.base_layer.weight + layer.get_delta_weight("default")
            encoder.get_submodule(name).weight.copy_(weight)
    model.head.load_state_dict(adapted.head.state_dict())
