"""An LSTM's final output over documents of different lengths in bfloat16, with compiled kernels.

N: rows, the real tokens of all documents one after another (no padding), then up to a round number rows that mean
nothing (see products.py; widths are multiples of 32, so that no product reads them for another row); B: documents,
T: tokens (padded), D: width of a token's vector, H: hidden size, G = 4 H: gates.

What the tokens add to the gates, and all weights' gradients, are products over all rows; only the recurrence goes step
by step (`csrc/lstm.c`). Its cells and gates are float32, what it keeps for backward is bfloat16 but for the cells.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imdbcls.fast import kernels
from imdbcls.fast.products import linear, rows_for, weight_gradient

_MULTIPLE = 32  # of widths that the kernels take
_GROUP = 8  # documents, as in lstm.c


def applies(lstm: nn.LSTM, hidden_BTD: Tensor) -> bool:
    """Whether the kernels can run here and now: on the CPU, under autocast to bfloat16, for widths they take."""
    return (
        hidden_BTD.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and lstm.input_size % _MULTIPLE == 0
        and lstm.hidden_size % _MULTIPLE == 0
        and kernels.load(torch.bfloat16) is not None
    )


def final_output(lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backwards: bool = False) -> Tensor:
    """The output after each document's last real token, or after its first where it is read `backwards`; final_BH in
    bfloat16. Padding, on the right, is not read. Where `applies`."""
    offsets = F.pad(mask_BT.sum(1).cumsum(0), (1, 0))
    rows_ND = hidden_BTD.to(torch.bfloat16).flatten(0, 1)
    if int(offsets[-1]) < len(rows_ND):
        rows_ND = rows_ND[mask_BT.flatten().nonzero().squeeze(1)]
    rows_ND = F.pad(rows_ND, (0, 0, 0, rows_for(len(rows_ND)) - len(rows_ND)))
    parameters = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (rows_ND, *parameters))
    final_BH: Tensor = CompiledLSTM.apply(rows_ND, offsets, backwards, keep, *parameters)
    return final_BH


class CompiledLSTM(torch.autograd.Function):
    """Hochreiter & Schmidhuber (1997) with a forget gate, from a zero state: PyTorch's equations."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_ND: Tensor,
        offsets: Tensor,  # (B + 1) int64: where each document's rows begin and the last ends
        backwards: bool,
        keep: bool,  # whether there will be a backward pass
        weight_GD: Tensor,
        weight_GH: Tensor,
        bias_G: Tensor,
        bias2_G: Tensor,
    ) -> Tensor:
        weight_GD, weight_GH = weight_GD.to(torch.bfloat16), weight_GH.to(torch.bfloat16)
        gates_NG = linear(_loaded(), rows_ND, weight_GD, bias_G + bias2_G)
        num_documents, hidden_size = len(offsets) - 1, weight_GH.shape[1]
        final_BH = rows_ND.new_empty((num_documents, hidden_size))
        previous_NH = rows_ND.new_empty((len(rows_ND), hidden_size)) if keep else None
        cell_NH = torch.empty((len(rows_ND), hidden_size)) if keep else None
        _loaded().call(
            "lstm", gates_NG, weight_GH, offsets, final_BH, previous_NH, cell_NH, num_documents, hidden_size, backwards
        )
        ctx.backwards = backwards
        ctx.save_for_backward(rows_ND, offsets, weight_GD, weight_GH, gates_NG, previous_NH, cell_NH)
        return final_BH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_final_BH: Tensor) -> tuple[Tensor | None, ...]:
        rows_ND, offsets, weight_GD, weight_GH, gates_NG, previous_NH, cell_NH = ctx.saved_tensors
        loaded = _loaded()
        num_documents, hidden_size = d_final_BH.shape
        d_gates_NG = torch.empty_like(gates_NG)
        d_bias_KG = torch.empty((-(-num_documents // _GROUP), 4 * hidden_size))
        loaded.call(
            "lstm_backward", gates_NG, weight_GH, offsets, cell_NH, d_final_BH.contiguous(), d_gates_NG, d_bias_KG,
            num_documents, hidden_size, ctx.backwards,
        )  # fmt: skip
        d_rows_ND = d_gates_NG @ weight_GD if ctx.needs_input_grad[0] else None
        num_rows = int(offsets[-1])
        d_weight_GD = weight_gradient(loaded, d_gates_NG, rows_ND, num_rows)
        d_weight_GH = weight_gradient(loaded, d_gates_NG, previous_NH, num_rows)
        # Two tensors: autograd keeps them as they are, and each is clipped in place.
        return d_rows_ND, None, None, None, d_weight_GD, d_weight_GH, d_bias_KG[0], d_bias_KG[0].clone()


def _loaded() -> kernels.Kernels:
    loaded = kernels.load(torch.bfloat16)
    assert loaded is not None  # `applies` has looked
    return loaded
