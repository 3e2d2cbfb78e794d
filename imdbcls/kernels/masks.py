"""Attention masks whose construction does not synchronise with the device.

Given mask_BT, the library calls `mask.all()` in each pass to see if it needs the mask. On CUDA this waits for all
earlier work. The library uses a mask of four dimensions as it is.
"""

from typing import Any

import torch
from torch import Tensor

_TAKE_BOOL = {"bert", "roberta", "modernbert", "deberta-v2"}


def attention_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """Return the `attention_mask` argument of `encoder` for mask_BT (bool, True at tokens).

    An encoder that is not known gets 1 and 0 (int64), like a tokenizer's output: some compute with them (XLNet,
    BigBird). It may wait for the device.
    """
    if encoder.config.model_type not in _TAKE_BOOL:
        return mask_BT.long()
    return mask_BT if mask_BT.device.type == "cpu" else ready_mask(encoder, mask_BT)


def ready_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """Return the masks that the library would give its layers; only padding tokens attend to other tokens."""
    config = encoder.config
    if config._attn_implementation != "sdpa":
        return mask_BT
    mask_B11T = mask_BT[:, None, None, :]
    if config.model_type in {"bert", "roberta"}:
        return mask_B11T
    if config.model_type == "modernbert":
        places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        near_TT = (places_T[:, None] - places_T).abs() <= config.sliding_window
        # What padding attends to is ignored, but a softmax over nothing would be NaN.
        readable_B1TT = near_TT | ~mask_BT[:, None, :, None]
        return {"full_attention": mask_B11T, "sliding_attention": mask_B11T & readable_B1TT}
    return mask_BT
