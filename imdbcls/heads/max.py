"""`head=max`: the maximum over the non-padding tokens, for each dimension; a baseline."""

from torch import Tensor, nn

from imdbcls.heads.pooling import max_over_tokens


class MaxHead(nn.Module):
    """Maximum over the non-padding tokens, per dimension → Linear(D, C)."""

    def __init__(self, *, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(max_over_tokens(hidden_BTD, mask_BT))
