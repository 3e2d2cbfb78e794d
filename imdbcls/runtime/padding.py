"""Documents of different lengths without their padding: the real tokens of all of them as rows, one after another.

B documents, T tokens of the longest, N real tokens.
"""

import torch.nn.functional as F
from torch import Tensor


def places_of(mask_BT: Tensor) -> Tensor:
    """The places of the real tokens among all B * T, ascending; places_N. On CUDA this waits for the device."""
    return mask_BT.flatten().nonzero().squeeze(1)


def offsets_of(mask_BT: Tensor) -> Tensor:
    """Where each document's rows begin and the last ends, (B + 1) int64; padding stands on the right."""
    return F.pad(mask_BT.sum(dim=1).cumsum(dim=0), (1, 0))
