"""Convert between padded batches and packed rows, which are the non-padding tokens of all documents concatenated.

Shape suffixes: B documents, T tokens per document including padding, N non-padding tokens in total, D features.
"""

import torch.nn.functional as F
from torch import Tensor


def token_indices(mask_BT: Tensor) -> Tensor:
    """Return the flat indices of the non-padding tokens in the (B, T) mask, ascending, shape (N,).

    On CUDA, this function waits for the device.
    """
    return mask_BT.flatten().nonzero().squeeze(1)


def cu_seqlens_of(mask_BT: Tensor) -> Tensor:
    """Return the cumulative sequence lengths, shape (B + 1,), int64: the rows of document b are `[cu[b], cu[b + 1])`.

    Padding must be on the right.
    """
    return F.pad(mask_BT.sum(dim=1).cumsum(dim=0), (1, 0))


def with_padding(hidden_ND: Tensor, mask_BT: Tensor, indices_N: Tensor) -> Tensor:
    """Scatter packed rows to a padded hidden_BTD with zeros at padding. `indices_N` comes from `token_indices`."""
    zeros_ND = hidden_ND.new_zeros((mask_BT.numel(), hidden_ND.shape[1]))
    return zeros_ND.index_copy(0, indices_N, hidden_ND).view(*mask_BT.shape, -1)
