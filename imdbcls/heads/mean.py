"""`head=mean`: the mean vector of the non-padding tokens; a baseline."""

from torch import Tensor, nn

from imdbcls.heads.pooling import weighted_sum


class MeanHead(nn.Module):
    """Mean over the non-padding tokens → Linear(D, C)."""

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        weights_BT = mask_BT / mask_BT.sum(dim=1, keepdim=True)
        return self.output(weighted_sum(weights_BT, hidden_BTD))
