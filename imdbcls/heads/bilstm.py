"""`head=bilstm`: a bidirectional LSTM over the token vectors, pooled over all tokens (Conneau et al. 2017)."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from imdbcls.heads.pooling import max_over_tokens, mean_over_tokens, recurrent_outputs, reverse_within_length


class BiLSTMHead(nn.Module):
    """Dropout → two LSTMs (D → D, one per direction) → maximum over the non-padding tokens → dropout → Linear(2 D, C).

    This is the BiLSTM with max pooling of Conneau et al. (2017), section 3.2.2: h_t concatenates the outputs of both
    directions at token t. Max pooling is the default, because the paper's best encoder uses it; `pooling=mean` is the
    paper's other variant. Differences: the LSTMs read the encoder's output instead of word vectors, D replaces the
    paper's 2048 units per direction, and dropout is added.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_labels: int,
        dropout: Annotated[float, Ge(0), Lt(1)],
        pooling: Literal["max", "mean"],
    ) -> None:
        super().__init__()
        self.pool = max_over_tokens if pooling == "max" else mean_over_tokens
        self.dropout = nn.Dropout(dropout)
        self.forward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.output = nn.Linear(2 * hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = self.dropout(hidden_BTD)
        forward_BD = self.pooled_output(self.forward_lstm, hidden_BTD, mask_BT)
        backward_BD = self.pooled_output(self.backward_lstm, hidden_BTD, mask_BT, backward=True)
        return self.output(self.dropout(torch.cat([forward_BD, backward_BD], dim=1)))

    def pooled_output(self, lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
        """Return the pooled outputs of an LSTM. With `backward`, it reads each document from its end to its start.

        Pooling ignores the order of the tokens, so each direction is pooled in its own order.
        """
        if backward:
            hidden_BTD = reverse_within_length(hidden_BTD, mask_BT)
        return self.pool(recurrent_outputs(lstm, hidden_BTD), mask_BT)
