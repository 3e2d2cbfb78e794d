"""`head=lstm`: an LSTM over the token vectors, and a linear classifier on its final output."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import final_recurrent_output


class LSTMHead(nn.Module):
    """Dropout → LSTM(D → D, zero initial state) → output at the last non-padding token → tanh → dropout → Linear(·, C).

    With `bidirectional`, a second LSTM reads each document backward and the two final outputs are concatenated (2 D).
    """

    final_output = staticmethod(final_recurrent_output)

    def __init__(
        self, *, hidden_size: int, num_labels: int, dropout: Annotated[float, Ge(0), Lt(1)], bidirectional: bool
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.forward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True) if bidirectional else None
        self.output = nn.Linear(hidden_size * (2 if bidirectional else 1), num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = self.dropout(hidden_BTD)
        final_BD = self.final_output(self.forward_lstm, hidden_BTD, mask_BT)
        if self.backward_lstm is not None:
            backward_BD = self.final_output(self.backward_lstm, hidden_BTD, mask_BT, backward=True)
            final_BD = torch.cat([final_BD, backward_BD], dim=1)
        return self.output(self.dropout(final_BD.tanh()))
