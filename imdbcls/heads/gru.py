"""`head=gru`: a GRU over the token vectors, and a linear classifier on its final output (Cho et al. 2014)."""

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import final_recurrent_output


class GRUHead(nn.Module):
    """Dropout → GRU(D → D, zero initial state) → output at the last non-padding token → dropout → Linear(D, C).

    The unit is the gated unit of Cho et al. (2014), equations 5 to 8, in the form of `nn.GRU`. Differences: `nn.GRU`
    has biases, and it multiplies the previous state by the matrix U before it applies the reset gate, not after. In the
    paper, the unit is part of a translation model; here, its final output is classified, as in `head=lstm`. No tanh
    follows this output, because it is a weighted average of tanh values.
    """

    final_output = staticmethod(final_recurrent_output)

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)]) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        final_BD = self.final_output(self.gru, self.dropout(hidden_BTD), mask_BT)
        return self.output(self.dropout(final_BD))
