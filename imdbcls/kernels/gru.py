"""The autograd function of a GRU over the compiled kernels (`recurrent.py`).

Shape suffixes: N rows, B documents, D width of a token's vector, H hidden size. The gates have 3 H columns: reset,
update, new.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from imdbcls.kernels.loading import Kernels
from imdbcls.kernels.products import linear, linear_backward, prepare, weight_gradient


class CompiledGRU(torch.autograd.Function):
    """The GRU of Cho et al. (2014) in PyTorch's form, from a zero initial state.

    The reset gate multiplies the hidden part of the new gate, including its bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        rows_ND: Tensor,
        offsets: Tensor,  # (B + 1) int64: the first row of each document, then the number of tokens
        reverse: bool,  # read each document from its end to its start
        all_tokens: bool,  # return output_NH instead of final_BH
        keep: bool,  # save the tensors that the backward pass needs
        weight_3HD: Tensor,
        weight_3HH: Tensor,
        bias_3H: Tensor,
        hidden_bias_3H: Tensor,
    ) -> Tensor:
        prepared, weight_3HH = prepare(kernels, weight_3HD), weight_3HH.to(kernels.dtype)
        num_documents, hidden_size = len(offsets) - 1, weight_3HH.shape[1]
        hidden_bias_2H, new_bias_H = hidden_bias_3H.split((2 * hidden_size, hidden_size))
        gates_N3H = linear(kernels, rows_ND, prepared, bias_3H + F.pad(hidden_bias_2H, (0, hidden_size)))
        outputs = rows_ND.new_empty((int(offsets[-1]) if all_tokens else num_documents, hidden_size))
        final_BH, output_NH = (None, outputs) if all_tokens else (outputs, None)
        previous_NH = rows_ND.new_empty((len(rows_ND), hidden_size)) if keep else None
        hidden_NH = rows_ND.new_empty((len(rows_ND), hidden_size)) if keep else None
        kernels.call(
            "gru", gates_N3H, weight_3HH, new_bias_H.float(), offsets, final_BH, output_NH, previous_NH, hidden_NH,
            num_documents, hidden_size, reverse,
        )  # fmt: skip
        ctx.kernels, ctx.reverse, ctx.all_tokens = kernels, reverse, all_tokens
        ctx.save_for_backward(rows_ND, offsets, prepared, weight_3HH, gates_N3H, previous_NH, hidden_NH)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows_ND, offsets, prepared, weight_3HH, gates_N3H, previous_NH, hidden_NH = ctx.saved_tensors
        kernels = ctx.kernels
        d_outputs = d_outputs.contiguous()
        d_final_BH, d_output_NH = (None, d_outputs) if ctx.all_tokens else (d_outputs, None)
        num_documents, hidden_size = len(offsets) - 1, weight_3HH.shape[1]
        d_input_N3H, d_hidden_N3H = torch.empty_like(gates_N3H), torch.empty_like(gates_N3H)
        d_bias_B4H = torch.empty((num_documents, 4 * hidden_size))  # the kernel uses one row per group of documents
        kernels.call(
            "gru_backward", gates_N3H, weight_3HH, offsets, previous_NH, hidden_NH, d_final_BH, d_output_NH,
            d_input_N3H, d_hidden_N3H, d_bias_B4H, num_documents, hidden_size, ctx.reverse,
        )  # fmt: skip
        d_rows_ND = linear_backward(kernels, d_input_N3H, prepared) if ctx.needs_input_grad[1] else None
        num_rows = int(offsets[-1])
        d_weight_3HD = weight_gradient(kernels, d_input_N3H, rows_ND, num_rows)
        d_weight_3HH = weight_gradient(kernels, d_hidden_N3H, previous_NH, num_rows)
        reset_and_update_2H, new_H, hidden_H = d_bias_B4H[0].split((2 * hidden_size, hidden_size, hidden_size))
        d_biases = (torch.cat([reset_and_update_2H, each_H]) for each_H in (new_H, hidden_H))
        return None, d_rows_ND, None, None, None, None, d_weight_3HD, d_weight_3HH, *d_biases
