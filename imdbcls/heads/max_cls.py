"""`head=max_cls`: the maximum of the first token's vectors over the last layers (MaxPoolBERT, Behrendt et al. 2025)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class MaxClsHead(nn.Module):
    """Maximum over the first token's vectors of the last `num_layers` layers, per dimension → dropout → Linear(D, C).

    This is the variant Max_CLS of Behrendt, Wagner and Harmeling (2025, arXiv 2505.15696), who recommend three layers.
    It has no attention. `head=max_seq` is the variant with attention.
    """

    reads_last_layers = True

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        num_layers: Annotated[int, Ge(1)],
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(self.dropout(hidden_LBTD[:, :, 0].amax(dim=0)))
