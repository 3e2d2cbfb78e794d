"""What several heads share: pooling over real tokens only, dropout on all of them (shape suffixes: see the package)."""

import torch
from torch import Tensor, nn

from imdbcls.kernels.dropout import DropoutMasks


def weighted_sum(weights_BT: Tensor, hidden_BTD: Tensor) -> Tensor:
    """Σ_t w_t h_t for each document, as one batched matrix product; pooled_BD has the hidden states' dtype."""
    return torch.bmm(weights_BT.to(hidden_BTD.dtype).unsqueeze(1), hidden_BTD).squeeze(1)


def masked_softmax(scores_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Softmax over the real tokens in float32; padding gets weight zero exactly."""
    return scores_BT.float().masked_fill(~mask_BT, float("-inf")).softmax(dim=1)


def last_real_token(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The vector at each document's last real token; returns last_BD."""
    last_B = mask_BT.sum(dim=1) - 1
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B]


class TokenDropout(nn.Dropout):
    """`nn.Dropout`, with masks that cost a tenth on the CPU, where drawing them takes longer than pooling."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        if not self.training or self.p == 0 or hidden_BTD.device.type != "cpu":
            return super().forward(hidden_BTD)
        num_rows, width = hidden_BTD[..., 0].numel(), hidden_BTD.shape[-1]
        kept_BTD = DropoutMasks().draw(num_rows, width, self.p, hidden_BTD.dtype).view_as(hidden_BTD)
        return (hidden_BTD * kept_BTD).mul_(1 / (1 - self.p))
