"""`head=cnn`: convolutions of several widths over the token vectors, pooled by their maximum (Kim 2014).

Shape suffixes: see `imdbcls.heads`; F filters of one width.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen
from torch import Tensor, nn


class CNNHead(nn.Module):
    """For each width h: Conv1d(D → F, h) → ReLU → maximum over the windows. All → dropout → Linear(widths · F, C).

    This is the model of Kim (2014), section 2, equations 2 to 5. By default, it has the paper's widths 3, 4 and 5, with
    100 filters each, ReLU, and dropout 0.5. Differences: the input is the encoder's output instead of word vectors, and
    the paper's l2 constraint on the rows of the linear layer is omitted. Windows contain no padding, with one
    exception: a document of fewer than h tokens has one window, padded with zeros.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        widths: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)],
        num_filters: Annotated[int, Gt(0)],
        dropout: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__()
        self.widths = widths
        self.convolutions = nn.ModuleList(nn.Conv1d(hidden_size, num_filters, width) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(len(widths) * num_filters, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BDT = hidden_BTD.masked_fill(~mask_BT.unsqueeze(2), 0.0).transpose(1, 2)
        pooled = [
            max_over_windows(convolution, width, hidden_BDT, mask_BT)
            for convolution, width in zip(self.convolutions, self.widths, strict=True)
        ]
        return self.output(self.dropout(torch.cat(pooled, dim=1)))


def max_over_windows(convolution: nn.Module, width: int, hidden_BDT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return ReLU(maximum of the convolution over the windows without padding), with shape (B, F).

    This equals the maximum of the ReLU, because ReLU is monotonic. `hidden_BDT` is zero at padding.
    """
    scores_BFT = convolution(F.pad(hidden_BDT, (0, width - 1)))  # one window starts at each token
    first_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    num_windows_B1 = (mask_BT.sum(dim=1, keepdim=True) - (width - 1)).clamp(min=1)
    has_padding_BT = first_T >= num_windows_B1
    return scores_BFT.masked_fill(has_padding_BT.unsqueeze(1), float("-inf")).amax(dim=2).relu()
