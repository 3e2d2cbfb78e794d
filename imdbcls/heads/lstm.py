"""`head=lstm`: an LSTM over the token vectors, read after it has seen the whole document."""

import torch
from torch import Tensor, nn

from imdbcls.heads.pooling import TokenDropout, last_real_token
from imdbcls.kernels.lstm import final_output, kernels_for
from imdbcls.runtime.device import computes_bf16


class LSTMHead(nn.Module):
    """Dropout → LSTM(D → D, zero initial state) → output at the last real token → tanh → dropout → Linear(·, C).

    With `bidirectional`, a second LSTM reads each document backwards and the two final outputs are joined (2 D).
    Padding stands on the right, so a padded LSTM read at the last real token never sees it; for the backward one each
    document is reversed within its own length. Packing gives the same values, several times slower on the CPU. There
    compiled kernels take the recurrence over where they can (`fast/lstm.py`).
    """

    def __init__(self, *, hidden_size: int, num_labels: int, dropout: float, bidirectional: bool) -> None:
        super().__init__()
        self.token_dropout = TokenDropout(dropout)
        self.dropout = nn.Dropout(dropout)
        self.forward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True) if bidirectional else None
        self.output = nn.Linear(hidden_size * (2 if bidirectional else 1), num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        hidden_BTD = self.token_dropout(hidden_BTD)
        final_BD = read(self.forward_lstm, hidden_BTD, mask_BT)
        if self.backward_lstm is not None:
            final_BD = torch.cat([final_BD, read(self.backward_lstm, hidden_BTD, mask_BT, backwards=True)], dim=1)
        return self.output(self.dropout(final_BD.tanh()))


def read(lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backwards: bool = False) -> Tensor:
    """The output after each document's last real token, or after its first where it is read `backwards`; final_BD."""
    kernels = kernels_for(lstm, hidden_BTD)
    if kernels is not None:
        return final_output(kernels, lstm, hidden_BTD, mask_BT, backwards=backwards)
    if backwards:
        hidden_BTD = reverse_within_length(hidden_BTD, mask_BT)
    return last_real_token(outputs_of(lstm, hidden_BTD), mask_BT)


def outputs_of(lstm: nn.LSTM, hidden_BTD: Tensor) -> Tensor:
    """The LSTM's outputs_BTD, in float32 where autocast would not do.

    CUDA's runs LSTMs in float16, whatever type it is set to, whose small gradients vanish unless the loss is scaled up;
    and oneDNN has no LSTM in bfloat16 for a CPU that does not compute in it.
    """
    device = hidden_BTD.device.type
    if device == "cuda" or (device == "cpu" and not computes_bf16(device)):
        with torch.autocast(device, enabled=False):
            return lstm(hidden_BTD.float())[0]
    return lstm(hidden_BTD)[0]


def reverse_within_length(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Each document's real tokens in reverse order; padding stays where it is, on the right."""
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
    source_BT = torch.where(mask_BT, lengths_B1 - 1 - positions_T, positions_T)
    return hidden_BTD.gather(1, source_BT.unsqueeze(2).expand_as(hidden_BTD))
