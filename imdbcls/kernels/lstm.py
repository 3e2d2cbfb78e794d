"""The autograd function of an LSTM over the compiled kernels (`recurrent.py`).

Shape suffixes: N rows, B documents, D width of a token's vector, H hidden size, G = 4 H gates.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from imdbcls.kernels.loading import Kernels
from imdbcls.kernels.products import linear, linear_backward, prepare, weight_gradient


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
