"""Pooling over the non-padding tokens, for several heads. Shape suffixes: see `imdbcls.heads`."""

import torch
from torch import Tensor


def weighted_sum(weights_BT: Tensor, hidden_BTD: Tensor) -> Tensor:
    """Return Σ_t w_t h_t for each document, with shape (B, D), in the dtype of the hidden states."""
    return torch.bmm(weights_BT.to(hidden_BTD.dtype).unsqueeze(1), hidden_BTD).squeeze(1)


def masked_softmax(scores_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Compute the softmax over the non-padding tokens in float32; the result is exactly zero at padding."""
    return scores_BT.float().masked_fill(~mask_BT, float("-inf")).softmax(dim=1)


def last_real_token(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the vector at each document's last non-padding token, with shape (B, D)."""
    last_B = mask_BT.sum(dim=1) - 1
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device), last_B]
