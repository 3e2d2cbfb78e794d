"""`head=mean`: the mean vector of the non-padding tokens; a baseline."""

from torch import Tensor, nn

from imdbcls.heads.pooling import mean_over_tokens


class MeanHead(nn.Module):
    """Mean over the non-padding tokens → Linear(D, C)."""

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(mean_over_tokens(hidden_BTD, mask_BT))
