"""A head that reads all layers."""

import torch
from torch import Tensor, nn


class LayersHead(nn.Module):
    """Σ_l w_l mean_t h_lt → Linear(D, C), with one learned weight per layer."""

    reads_all_layers = True

    def __init__(self, *, hidden_size: int, num_labels: int, num_hidden_states: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.full((num_hidden_states,), 1 / num_hidden_states))
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        assert hidden_LBTD.shape[:-1] == (len(self.layer_weights), *mask_BT.shape)
        real_LBTD = hidden_LBTD.float().masked_fill(~mask_BT.unsqueeze(2), 0)
        means_LBD = real_LBTD.sum(dim=2) / mask_BT.sum(dim=1, keepdim=True)
        return self.output(torch.einsum("l,lbd->bd", self.layer_weights, means_LBD))


class FirstTokensHead(LayersHead):
    """A head that reads the first token of each layer."""

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(torch.einsum("l,lbd->bd", self.layer_weights, hidden_LBTD[:, :, 0].float()))


class WithoutNumberHead(LayersHead):
    """A head whose constructor does not accept `num_hidden_states`."""

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__(hidden_size=hidden_size, num_labels=num_labels, num_hidden_states=3)


class LastWithoutNumberHead(nn.Module):
    """A head that reads the last layers and does not say how many."""

    reads_last_layers = True

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, num_labels)
