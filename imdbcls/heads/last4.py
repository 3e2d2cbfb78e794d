"""`head=last4`: the first token's vectors of the last four layers, concatenated (Devlin et al. 2019)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn


class LastFourHead(nn.Module):
    """First token of each of the last `num_layers` layers → concatenated → dropout → Linear(num_layers · D, C).

    Concatenating the last four layers gives the best features in table 7 of Devlin et al. (2019). The paper recognizes
    named entities and classifies each token with a BiLSTM; this head classifies the document with a linear layer over
    the first token.
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
        self.output = nn.Linear(num_layers * hidden_size, num_labels)

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        first_BLD = hidden_LBTD[:, :, 0].transpose(0, 1)
        return self.output(self.dropout(first_BLD.flatten(1)))
