"""Functions that several heads use: pooling over the non-padding tokens, and running recurrent layers.

Shape suffixes: see `imdbcls.heads`.
"""

import torch
from torch import Tensor, nn


def weighted_sum(weights_BT: Tensor, hidden_BTD: Tensor) -> Tensor:
    """Return Σ_t w_t h_t for each document, with shape (B, D), in the dtype of the hidden states."""
    return torch.bmm(weights_BT.to(hidden_BTD.dtype).unsqueeze(1), hidden_BTD).squeeze(1)


def mean_over_tokens(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean vector of each document's non-padding tokens, with shape (B, D), in the dtype of the input.

    `token_mean` computes the same mean in float32.
    """
    return weighted_sum(mask_BT / mask_BT.sum(dim=1, keepdim=True), hidden_BTD)


def max_over_tokens(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the maximum of each dimension over each document's non-padding tokens, with shape (B, D)."""
    return hidden_BTD.masked_fill(~mask_BT.unsqueeze(2), float("-inf")).amax(dim=1)


def masked_softmax(scores_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Compute the softmax over the non-padding tokens in float32; the result is exactly zero at padding.

    For several scores per token, scores_BRT, the mask is mask_B1T.
    """
    return scores_BT.float().masked_fill(~mask_BT, float("-inf")).softmax(dim=-1)


def token_mean(hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return mean_LBD, the mean over the non-padding tokens of one or several layers, in float32.

    If T is 1, the single vector of each document is returned, because it is already the mean. In this case, the mask is
    not read and may have more than one column.
    """
    if hidden_LBTD.shape[-2] == 1:
        return hidden_LBTD[..., 0, :].float()
    real_LBTD = hidden_LBTD.float().masked_fill(~mask_BT.unsqueeze(-1), 0)
    return real_LBTD.sum(dim=-2) / mask_BT.sum(dim=1, keepdim=True)


def last_real_token(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the vector at each document's last non-padding token, with shape (B, D)."""
    last_B = mask_BT.sum(dim=1) - 1
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device), last_B]


def reverse_within_length(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Reverse the non-padding tokens of each document; padding stays on the right."""
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
    source_BT = torch.where(mask_BT, lengths_B1 - 1 - positions_T, positions_T)
    return hidden_BTD.gather(1, source_BT.unsqueeze(2).expand_as(hidden_BTD))


def recurrent_outputs(layer: nn.Module, hidden_BTD: Tensor) -> Tensor:
    """Return the output of an LSTM or a GRU at each token, in the dtype of its weights. The initial state is zero."""
    # CUDA autocast would run the layer in float16, where small gradients underflow.
    with torch.autocast(hidden_BTD.device.type, enabled=False):
        return layer(hidden_BTD.to(next(layer.parameters()).dtype))[0]


def final_recurrent_output(layer: nn.Module, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
    """Return the final output of an LSTM or a GRU for each document, with shape (B, D).

    The layer reads the non-padding tokens from the first to the last, or from the last to the first if `backward`.
    Padding is on the right, so it does not influence this output.
    """
    if backward:
        hidden_BTD = reverse_within_length(hidden_BTD, mask_BT)
    return last_real_token(recurrent_outputs(layer, hidden_BTD), mask_BT)
