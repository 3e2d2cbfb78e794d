"""Attention masks made without a look at their values, for devices that would have to be waited for.

Given mask_BT, the library asks `mask.all()` in each pass, whether it may leave the mask out: on CUDA, that waits for
all the work before it. A mask of four dimensions is taken as it is.
"""

from typing import Any

import torch
from torch import Tensor

_TAKE_BOOL = {"bert", "roberta", "modernbert", "deberta-v2"}


def attention_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """What to give `encoder` as its attention mask, for mask_BT, True at real tokens.

    An encoder that is not known gets it as the numbers 1 and 0, as a tokenizer would give it: some compute with them
    (XLNet, BigBird). It may wait for the device.
    """
    if encoder.config.model_type not in _TAKE_BOOL:
        return mask_BT.long()
    return mask_BT if mask_BT.device.type == "cpu" else ready_mask(encoder, mask_BT)


def ready_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """The masks of the encoder's layers as the library would make them; only padding reads otherwise."""
    config = encoder.config
    if config._attn_implementation != "sdpa":
        return mask_BT
    mask_B11T = mask_BT[:, None, None, :]
    if config.model_type in {"bert", "roberta"}:
        return mask_B11T
    if config.model_type == "modernbert":
        places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        near_TT = (places_T[:, None] - places_T).abs() <= config.sliding_window
        # What padding reads is of no account, but it must read something: a softmax over nothing is no number.
        readable_B1TT = near_TT | ~mask_BT[:, None, :, None]
        return {"full_attention": mask_B11T, "sliding_attention": mask_B11T & readable_B1TT}
    return mask_BT
