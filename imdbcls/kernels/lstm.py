"""Compute the outputs of an LSTM over documents of different lengths with compiled kernels.

The rows are the non-padding tokens of all documents, one after another. In bfloat16, unused rows follow, because matrix
products need a rounded number of rows (`products.py`). Widths are multiples of 32, so these rows do not affect other
rows.

The input part of the gates and all weight gradients are products over all rows. Only the recurrence runs step by step
(`csrc/lstm.c` in bfloat16, `csrc/float_lstm.c` in float32). In bfloat16, the recurrence computes cells and gates in
float32; the tensors that it saves for backward are bfloat16, except the cells.

Shape suffixes: N rows, B documents, T tokens (padded), D width of a token's vector, H hidden size, G = 4 H gates.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imdbcls.kernels.declarations import constant
from imdbcls.kernels.loading import Kernels, load
from imdbcls.kernels.products import linear, linear_backward, padded_rows, prepare, weight_gradient
from imdbcls.runtime.device import computes_bf16
from imdbcls.runtime.padding import cu_seqlens_of, token_indices


def kernels_for(lstm: nn.LSTM, hidden_BTD: Tensor) -> Kernels | None:
    """Return the kernels for an LSTM in the autocast dtype or else the input's dtype, or None to use PyTorch's LSTM."""
    if hidden_BTD.device.type != "cpu":
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_BTD.dtype
    return kernels_of_width(lstm, dtype)


def kernels_of_width(lstm: nn.LSTM, dtype: torch.dtype) -> Kernels | None:
    """Return the kernels for an LSTM on the CPU in this dtype, or None to use PyTorch's LSTM.

    On a processor without bfloat16 instructions, return the float32 kernels for bfloat16.
    """
    multiple = constant("WIDTH_MULTIPLE")
    if lstm.input_size % multiple or lstm.hidden_size % multiple:
        return None
    if dtype == torch.bfloat16 and not computes_bf16("cpu"):
        dtype = torch.float32
    return load(dtype) if dtype in (torch.bfloat16, torch.float32) else None


def final_output(
    kernels: Kernels, lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False
) -> Tensor:
    """Return the LSTM's output after it has read each document; final_BH in the dtype of the kernels.

    With `backward`, the LSTM reads each document from its end to its start. `kernels` must come from `kernels_for`.
    Padding is on the right and is not read.
    """
    return run(kernels, lstm, hidden_BTD, mask_BT, backward, all_tokens=False)


def token_outputs(
    kernels: Kernels, lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False
) -> Tensor:
    """Return the LSTM's output at each non-padding token; output_NH in the dtype of the kernels.

    The rows are in the order of the tokens in `mask_BT`, also with `backward`. See `final_output`.
    """
    return run(kernels, lstm, hidden_BTD, mask_BT, backward, all_tokens=True)


def run(
    kernels: Kernels, lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, backward: bool, all_tokens: bool
) -> Tensor:
    offsets = cu_seqlens_of(mask_BT)
    rows_ND = hidden_BTD.to(kernels.dtype).flatten(0, 1)
    if int(offsets[-1]) < len(rows_ND):
        rows_ND = rows_ND[token_indices(mask_BT)]
    rows_ND = F.pad(rows_ND, (0, 0, 0, padded_rows(len(rows_ND), kernels.dtype) - len(rows_ND)))
    parameters = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (rows_ND, *parameters))
    outputs: Tensor = CompiledLSTM.apply(kernels, rows_ND, offsets, backward, all_tokens, keep, *parameters)
    return outputs


class CompiledLSTM(torch.autograd.Function):
    """The LSTM of Hochreiter & Schmidhuber (1997) with a forget gate, as in PyTorch, from a zero initial state."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        rows_ND: Tensor,
        offsets: Tensor,  # (B + 1) int64: the first row of each document, then the number of tokens
        reverse: bool,  # read each document from its end to its start
        all_tokens: bool,  # return output_NH instead of final_BH
        keep: bool,  # save the tensors that the backward pass needs
        weight_GD: Tensor,
        weight_GH: Tensor,
        bias_G: Tensor,
        bias2_G: Tensor,
    ) -> Tensor:
        prepared, weight_GH = prepare(kernels, weight_GD), weight_GH.to(kernels.dtype)
        gates_NG = linear(kernels, rows_ND, prepared, bias_G + bias2_G)
        num_documents, hidden_size = len(offsets) - 1, weight_GH.shape[1]
        outputs = rows_ND.new_empty((int(offsets[-1]) if all_tokens else num_documents, hidden_size))
        final_BH, output_NH = (None, outputs) if all_tokens else (outputs, None)
        previous_NH = rows_ND.new_empty((len(rows_ND), hidden_size)) if keep else None
        cell_NH = torch.empty((len(rows_ND), hidden_size)) if keep else None
        kernels.call(
            "lstm", gates_NG, weight_GH, offsets, final_BH, output_NH, previous_NH, cell_NH, num_documents, hidden_size,
            reverse,
        )  # fmt: skip
        ctx.kernels, ctx.reverse, ctx.all_tokens = kernels, reverse, all_tokens
        ctx.save_for_backward(rows_ND, offsets, prepared, weight_GH, gates_NG, previous_NH, cell_NH)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows_ND, offsets, prepared, weight_GH, gates_NG, previous_NH, cell_NH = ctx.saved_tensors
        kernels = ctx.kernels
        d_outputs = d_outputs.contiguous()
        d_final_BH, d_output_NH = (None, d_outputs) if ctx.all_tokens else (d_outputs, None)
        num_documents, hidden_size = len(offsets) - 1, weight_GH.shape[1]
        d_gates_NG = torch.empty_like(gates_NG)
        d_bias_BG = torch.empty((num_documents, 4 * hidden_size))  # the kernel uses one row per group of documents
        kernels.call(
            "lstm_backward", gates_NG, weight_GH, offsets, cell_NH, d_final_BH, d_output_NH, d_gates_NG, d_bias_BG,
            num_documents, hidden_size, ctx.reverse,
        )  # fmt: skip
        d_rows_ND = linear_backward(kernels, d_gates_NG, prepared) if ctx.needs_input_grad[1] else None
        num_rows = int(offsets[-1])
        d_weight_GD = weight_gradient(kernels, d_gates_NG, rows_ND, num_rows)
        d_weight_GH = weight_gradient(kernels, d_gates_NG, previous_NH, num_rows)
        # The two bias gradients must be separate tensors: autograd does not copy them, and clipping changes each one
        # in place.
        return None, d_rows_ND, None, None, None, None, d_weight_GD, d_weight_GH, d_bias_BG[0], d_bias_BG[0].clone()
