"""Build attention masks without synchronizing with the device.

For a two-dimensional mask, transformers calls `mask.all()` in each pass to check whether it needs the mask. On CUDA,
this waits for all queued work. A four-dimensional mask is used without this check.
"""

from typing import Any

import torch
from torch import Tensor

_ACCEPT_BOOL = {"bert", "roberta", "modernbert", "deberta-v2"}


def attention_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """Return the `attention_mask` argument of `encoder` for `mask_BT` (bool, True at non-padding tokens).

    Model types outside `_ACCEPT_BOOL` get 1 and 0 (int64), like the output of a tokenizer, because some of them compute
    with the mask (XLNet, BigBird). With such a mask, a pass may wait for the device.
    """
    if encoder.config.model_type not in _ACCEPT_BOOL:
        return mask_BT.long()
    return mask_BT if mask_BT.device.type == "cpu" else ready_mask(encoder, mask_BT)


def ready_mask(encoder: Any, mask_BT: Tensor) -> Any:
    """Return the masks that transformers would build from `mask_BT`. Only the rows of padding tokens may differ.

    If the encoder does not use SDPA, or if its model type has no case here, return `mask_BT` itself.
    """
    config = encoder.config
    if config._attn_implementation != "sdpa":
        return mask_BT
    mask_B11T = mask_BT[:, None, None, :]
    if config.model_type in {"bert", "roberta"}:
        return mask_B11T
    if config.model_type == "modernbert":
        positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        near_TT = (positions_T[:, None] - positions_T).abs() <= config.sliding_window
        # Let padding attend to all non-padding tokens. Output at padding is ignored, but softmax over no token is NaN.
        allowed_B1TT = near_TT | ~mask_BT[:, None, :, None]
        return {"full_attention": mask_B11T, "sliding_attention": mask_B11T & allowed_B1TT}
    return mask_BT
