"""Compute the outputs of an LSTM or a GRU over documents of different lengths with compiled kernels.

The rows are the non-padding tokens of all documents, one after another. In bfloat16, unused rows follow, because matrix
products need a rounded number of rows (`products.py`). Widths are multiples of 32, so these rows do not affect other
rows.

The input part of the gates and all weight gradients are products over all rows. Only the recurrence runs step by step
(`csrc/lstm.c` and `csrc/gru.c` in bfloat16, `csrc/float_lstm.c` and `csrc/float_gru.c` in float32). In bfloat16, the
recurrence computes in float32; the tensors that it saves for backward are bfloat16, except the cells of an LSTM.

Shape suffixes: N rows, B documents, T tokens (padded), D width of a token's vector, H hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdbcls.kernels.declarations import constant
from imdbcls.kernels.gru import CompiledGRU
from imdbcls.kernels.loading import Kernels, load
from imdbcls.kernels.lstm import CompiledLSTM
from imdbcls.kernels.products import padded_rows
from imdbcls.runtime.device import computes_bf16
from imdbcls.runtime.padding import cu_seqlens_of, token_indices


def kernels_for(layer: nn.LSTM | nn.GRU, hidden_BTD: Tensor) -> Kernels | None:
    """Return the kernels for a layer, or None to use PyTorch's layer.

    The dtype of the kernels is the autocast dtype. Without autocast, it is the dtype of `hidden_BTD`.
    """
    if hidden_BTD.device.type != "cpu":
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_BTD.dtype
    return kernels_of_width(layer, dtype)


def kernels_of_width(layer: nn.LSTM | nn.GRU, dtype: torch.dtype) -> Kernels | None:
    """Return the kernels for a layer on the CPU in this dtype, or None to use PyTorch's layer.

    On a processor without bfloat16 instructions, return the float32 kernels for bfloat16.
    """
    multiple = constant("WIDTH_MULTIPLE")
    if layer.input_size % multiple or layer.hidden_size % multiple:
        return None
    if dtype == torch.bfloat16 and not computes_bf16("cpu"):
        dtype = torch.float32
    return load(dtype) if dtype in (torch.bfloat16, torch.float32) else None


def final_output(
    kernels: Kernels, layer: nn.LSTM | nn.GRU, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False
) -> Tensor:
    """Return the layer's output after it has read each document; final_BH in the dtype of the kernels.

    With `backward`, the layer reads each document from its end to its start. `kernels` must come from `kernels_for`.
    Padding is on the right and is not read.
    """
    return run(kernels, layer, hidden_BTD, mask_BT, backward, all_tokens=False)


def token_outputs(
    kernels: Kernels, layer: nn.LSTM | nn.GRU, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False
) -> Tensor:
    """Return the layer's output at each non-padding token; output_NH in the dtype of the kernels.

    The rows are in the order of the tokens in `mask_BT`, even with `backward`. See `final_output`.
    """
    return run(kernels, layer, hidden_BTD, mask_BT, backward, all_tokens=True)


def run(
    kernels: Kernels, layer: nn.LSTM | nn.GRU, hidden_BTD: Tensor, mask_BT: Tensor, backward: bool, all_tokens: bool
) -> Tensor:
    offsets = cu_seqlens_of(mask_BT)
    rows_ND = hidden_BTD.to(kernels.dtype).flatten(0, 1)
    if int(offsets[-1]) < len(rows_ND):
        rows_ND = rows_ND[token_indices(mask_BT)]
    rows_ND = F.pad(rows_ND, (0, 0, 0, padded_rows(len(rows_ND), kernels.dtype) - len(rows_ND)))
    parameters = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (rows_ND, *parameters))
    compiled = CompiledLSTM if isinstance(layer, nn.LSTM) else CompiledGRU
    outputs: Tensor = compiled.apply(kernels, rows_ND, offsets, backward, all_tokens, keep, *parameters)
    return outputs
