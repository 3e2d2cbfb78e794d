"""Compute the matrix products of a linear layer and of its gradients, for the compiled kernels.

In bfloat16, oneDNN computes the products, except the weight gradients. In float32 on AVX2, the kernels compute all
products.

Shape suffixes: N rows, O outputs, K inputs, P panels of C = 16 outputs.
"""

import torch
from torch import Tensor

from imdbcls.kernels.declarations import constant
from imdbcls.kernels.loading import Kernels


def padded_rows(num_rows: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the number of rows for the products of a batch, given the number of tokens.

    For each new number of rows, oneDNN needs 4 ms to prepare a product, and few batches have the same number of tokens.
    So the number is rounded up to one of a few values. The float32 kernels need no preparation and no rounding.
    """
    if dtype == torch.float32:
        return num_rows
    multiple = 32 if num_rows <= 512 else 128 if num_rows <= 8192 else 512
    return -(-num_rows // multiple) * multiple


def prepare(kernels: Kernels, *weights_OK: Tensor) -> Tensor:
    """Concatenate the weights of layers with the same input, as (O, K) in bfloat16 or packed (P, K, 16) in float32."""
    num_outputs, num_inputs = sum(len(weight) for weight in weights_OK), weights_OK[0].shape[1]
    if kernels.dtype == torch.float32:
        weight_OK = weights_OK[0] if len(weights_OK) == 1 else torch.cat(weights_OK)
        width = constant("PANEL_WIDTH")
        packed_PKC = torch.empty((-(-num_outputs // width), num_inputs, width))
        kernels.call("pack_weight", weight_OK.contiguous(), packed_PKC, num_outputs, num_inputs)
        return packed_PKC
    joined_OK = torch.empty((num_outputs, num_inputs), dtype=kernels.dtype)
    for part, weight in zip(joined_OK.split([len(weight) for weight in weights_OK]), weights_OK, strict=True):
        part.copy_(weight)
    return joined_OK


def linear(kernels: Kernels, x_NK: Tensor, weight: Tensor, bias_O: Tensor) -> Tensor:
    """Return x @ weight.T + bias for a prepared weight.

    In bfloat16, the sum is rounded only once. `F.linear` is not used in bfloat16, because it would first write the bias
    to all rows, which takes a fifth of the time of the product.
    """
    if kernels.dtype == torch.float32:
        y_NO = torch.empty((len(x_NK), len(bias_O)))
        kernels.call("linear", x_NK, weight, bias_O, y_NO, *x_NK.shape, len(bias_O))
        return y_NO
    return torch.ops.mkldnn._linear_pointwise(x_NK, weight, bias_O, "none", [], "")


def linear_backward(kernels: Kernels, d_y_NO: Tensor, weight: Tensor) -> Tensor:
    """Return d_y @ weight, the gradient of x, for a prepared weight."""
    if kernels.dtype == torch.float32:
        num_rows, num_outputs = d_y_NO.shape
        d_x_NK = torch.empty((num_rows, weight.shape[1]))
        kernels.call("linear_backward", d_y_NO, weight, d_x_NK, num_rows, weight.shape[1], num_outputs)
        return d_x_NK
    return d_y_NO @ weight


def weight_gradient(kernels: Kernels, d_y_NO: Tensor, x_NK: Tensor, num_rows: int) -> Tensor:
    """Return d_y.T @ x over the first `num_rows` rows, in float32, or bfloat16 for unsupported widths."""
    num_outputs, num_inputs = d_y_NO.shape[1], x_NK.shape[1]
    multiple = constant("WIDTH_MULTIPLE")
    if kernels.dtype == torch.bfloat16 and (num_outputs % multiple or num_inputs % multiple):
        return d_y_NO[:num_rows].t() @ x_NK[:num_rows]
    d_weight_OK = torch.empty((num_outputs, num_inputs))
    kernels.call("weight_gradient", d_y_NO, x_NK, d_weight_OK, num_rows, num_outputs, num_inputs)
    return d_weight_OK
