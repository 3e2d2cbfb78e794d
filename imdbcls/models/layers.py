"""Find the layers of an encoder, freeze the lowest layers, and recompute activations in the backward pass."""

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone


def freeze(backbone: Backbone, layers: bool | int) -> None:
    """Freeze the complete encoder (True), the embeddings and the lowest `layers` layers (int), or nothing (False).

    The backward pass ends at the lowest trainable layer. Raise UserError if `layers` is not smaller than the number of
    layers.
    """
    if layers is False:
        return
    if layers is True:
        backbone.encoder.requires_grad_(False)
        return
    embeddings, stack = parts_of(backbone.encoder)
    if layers >= len(stack):
        raise UserError(
            f"backbone.freeze={layers} freezes all {len(stack)} layers of backbone={backbone.name}. Set a number up "
            f"to {len(stack) - 1}, or true to train only the head."
        )
    for part in (*embeddings, *stack[:layers]):
        part.requires_grad_(False)


def recompute_activations(backbone: Backbone) -> Backbone:
    """Enable gradient checkpointing (Chen et al. 2016): store only layer inputs, and recompute the layers in backward.

    This saves memory, but a training step takes about a third more time. The gradients do not change, even with
    dropout.
    """
    if not backbone.encoder.supports_gradient_checkpointing:
        raise UserError(
            f"{type(backbone.encoder).__name__} does not support backbone.gradient_checkpointing=true. To save memory, "
            "reduce trainer.micro_batch_size instead."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of transformers rename the method
        backbone.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    reason = "backbone.gradient_checkpointing works only with the layers of the transformers library"
    return replace(backbone, cpu_fallback_reason=reason, cuda_fallback_reason=reason)


def parts_of(encoder: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return an encoder's embedding modules, and its layers from bottom to top.

    A module outside the layers counts as an embedding module if the layers read its output, for example DeBERTa's
    embeddings of relative positions and their layer norm. Raise UserError if the encoder's structure is not known.
    """
    has_embeddings = isinstance(getattr(encoder, "embeddings", None), nn.Module)
    if has_embeddings and isinstance(getattr(encoder, "layers", None), nn.ModuleList):  # ModernBERT
        return [encoder.embeddings], list(encoder.layers)
    stack: Any = getattr(encoder, "encoder", None) or getattr(encoder, "transformer", None)  # `transformer`: DistilBERT
    if not has_embeddings or not isinstance(getattr(stack, "layer", None), nn.ModuleList):
        raise UserError(
            f"The layers of {type(encoder).__name__} cannot be identified: set backbone.freeze to true or false, "
            "backbone.reinit_layers=0 and optimizer.layer_decay=1."
        )
    relative = [getattr(stack, name, None) for name in ("rel_embeddings", "LayerNorm")]
    relative.append(getattr(encoder, "embeddings_project", None))  # ELECTRA
    return [encoder.embeddings, *(part for part in relative if part is not None)], list(stack.layer)
