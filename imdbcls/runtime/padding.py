"""Documents of different lengths without their padding: the real tokens of all of them as rows, one after another.

B documents, T tokens of the longest, N real tokens.
"""

import torch.nn.functional as F
from torch import Tensor


def token_indices(mask_BT: Tensor) -> Tensor:
    """The places of the real tokens among all B * T, ascending; token_indices_N. On CUDA this waits for the device."""
    return mask_BT.flatten().nonzero().squeeze(1)


def cu_seqlens_of(mask_BT: Tensor) -> Tensor:
    """Where each document's rows begin and the last ends, (B + 1) int64; padding stands on the right."""
    return F.pad(mask_BT.sum(dim=1).cumsum(dim=0), (1, 0))


def with_padding(hidden_ND: Tensor, mask_BT: Tensor, indices_N: Tensor) -> Tensor:
    """Scatter the rows of the tokens to hidden_BTD, with zeros at padding; `indices_N` as from `token_indices`."""
    zeros_ND = hidden_ND.new_zeros((mask_BT.numel(), hidden_ND.shape[1]))
    return zeros_ND.index_copy(0, indices_N, hidden_ND).view(*mask_BT.shape, -1)
