"""Re-initialize the top layers of a pretrained encoder."""

import torch
from transformers import AutoModel

from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone
from imdbcls.models.encoders import text_encoder
from imdbcls.models.layers import parts_of
from imdbcls.runtime.device import seed_everything_at

REINITIALISATION = -3  # a step number for `seed_everything_at` that no training step has


def reinitialize_top_layers(backbone: Backbone, num_layers: int, num_frozen: int, seed: int) -> None:
    """Give the top `num_layers` layers the weights of a new encoder (Zhang et al. 2021, section 5).

    The new encoder has the same architecture, so its own initializer draws the weights. The weights depend only on
    `seed`. PyTorch's random state on the CPU does not change, so the head gets the same initial weights with and
    without this function.

    Departure from the paper: the paper also re-initializes BERT's pooler. The encoders here have no pooler; the layer
    with this role is part of `head=cls`, and every head is new. The final norm of ModernBERT counts as part of the top
    layer.

    Raise UserError if the encoder has fewer than `num_layers` layers, or if one of the top `num_layers` layers is also
    one of the lowest `num_frozen` layers.
    """
    layers = parts_of(backbone.encoder)[1]
    if num_layers + num_frozen > len(layers):
        frozen = f", and backbone.freeze={num_frozen} freezes the lowest {num_frozen}" if num_frozen > 0 else ""
        raise UserError(
            f"backbone.reinit_layers={num_layers}: backbone={backbone.name} has {len(layers)} layers{frozen}. Use "
            f"up to {len(layers) - num_frozen}."
        )
    with torch.random.fork_rng(devices=[]):
        seed_everything_at(seed, REINITIALISATION)
        new = text_encoder(AutoModel.from_config(backbone.encoder.config, dtype=torch.float32))
    for old_layer, new_layer in zip(layers[-num_layers:], parts_of(new)[1][-num_layers:], strict=True):
        old_layer.load_state_dict(new_layer.state_dict())
    if hasattr(new, "final_norm"):
        backbone.encoder.get_submodule("final_norm").load_state_dict(new.final_norm.state_dict())
