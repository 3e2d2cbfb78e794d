"""An encoder layer made of PyTorch operations, with a hand-written backward pass, in any precision.

Tensors have the compute dtype. Products accumulate in float32, and layer norms are computed in float32.

Shape suffixes: B documents, T tokens (padded), N = B * T rows, H hidden size, A attention heads, D = H / A width of
a head, F width of the feed-forward layer.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from imdbcls.kernels.attention import KeyMask, attention_backward, attention_forward
from imdbcls.kernels.dropout import DropoutMasks


class Shape(NamedTuple):
    """The sizes and settings of a layer."""

    num_documents: int
    num_tokens: int
    num_heads: int
    epsilon: float
    dropout: float


class Weights(NamedTuple):
    """The prepared weights of a layer, with query, key and value concatenated. Matrices have the compute dtype.

    For the compiled float32 kernels, the matrices are packed (`products.prepare`).
    """

    qkv_3HH: Tensor
    qkv_3H: Tensor
    out_HH: Tensor
    out_H: Tensor
    norm1_weight_H: Tensor
    norm1_bias_H: Tensor
    up_FH: Tensor
    up_F: Tensor
    down_HF: Tensor
    down_H: Tensor
    norm2_weight_H: Tensor
    norm2_bias_H: Tensor


def compute_weights(parameters: tuple[Tensor, ...], dtype: torch.dtype) -> Weights:
    """Cast the sixteen parameters of a layer to the compute dtype, and concatenate query, key and value.

    Except within `encoder.inference_weights`, each pass casts the parameters again, which takes one hundredth of the
    time of the pass. A cached copy could be outdated, because PyTorch's fused AdamW does not increase the version of
    the parameters that it updates.
    """
    with torch.no_grad():
        query, query_bias, key, key_bias, value, value_bias, out, out_bias, *rest = parameters
        norm1, norm1_bias, up, up_bias, down, down_bias, norm2, norm2_bias = rest
        return Weights(
            torch.cat((query, key, value)).to(dtype),
            torch.cat((query_bias, key_bias, value_bias)).to(dtype),
            out.to(dtype),
            out_bias.to(dtype),
            norm1,
            norm1_bias,
            up.to(dtype),
            up_bias.to(dtype),
            down.to(dtype),
            down_bias.to(dtype),
            norm2,
            norm2_bias,
        )


class LayerFunction(torch.autograd.Function):
    """One post-norm encoder layer (Vaswani et al. 2017; Devlin et al. 2019) over all rows of a batch."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NH: Tensor,
        shape: Shape,
        keys: KeyMask,
        masks: DropoutMasks | None,
        weights: Weights,
        *parameters: Tensor,
    ) -> Tensor:
        """Compute the layer from `weights`.

        `parameters` are the layer's sixteen float32 parameters, to which autograd assigns the gradients.
        """
        w = weights
        qkv_BT3AD = F.linear(x_NH, w.qkv_3HH, w.qkv_3H).view(
            shape.num_documents, shape.num_tokens, 3, shape.num_heads, -1
        )
        context_BTAD, logsumexp_BAT = attention_forward(qkv_BT3AD, keys)
        context_NH = context_BTAD.reshape(x_NH.shape)
        attended_NH = F.linear(context_NH, w.out_HH, w.out_H)
        sum1_NH, kept1_NH = _add_dropped(x_NH, attended_NH, shape.dropout, masks)
        y_NH, *statistics1 = _normalise(sum1_NH, w.norm1_weight_H, w.norm1_bias_H, shape.epsilon)
        up_NF = F.linear(y_NH, w.up_FH, w.up_F)
        active_NF = F.gelu(up_NF)
        down_NH = F.linear(active_NF, w.down_HF, w.down_H)
        sum2_NH, kept2_NH = _add_dropped(y_NH, down_NH, shape.dropout, masks)
        z_NH, *statistics2 = _normalise(sum2_NH, w.norm2_weight_H, w.norm2_bias_H, shape.epsilon)
        ctx.shape, ctx.keys, ctx.weights = shape, keys, weights
        ctx.save_for_backward(
            x_NH, qkv_BT3AD, context_NH, logsumexp_BAT, kept1_NH, sum1_NH, *statistics1,
            y_NH, up_NF, active_NF, kept2_NH, sum2_NH, *statistics2,
        )  # fmt: skip
        return z_NH

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_z_NH,) = gradients
        shape, w = ctx.shape, ctx.weights
        (
            x_NH, qkv_BT3AD, context_NH, logsumexp_BAT, kept1_NH, sum1_NH, mean1_N1, rstd1_N1,
            y_NH, up_NF, active_NF, kept2_NH, sum2_NH, mean2_N1, rstd2_N1,
        ) = ctx.saved_tensors  # fmt: skip
        d_sum2_NH, d_norm2_weight_H, d_norm2_bias_H = _normalise_backward(
            d_z_NH, sum2_NH, mean2_N1, rstd2_N1, w.norm2_weight_H, w.norm2_bias_H
        )
        d_down_NH = _drop_backward(d_sum2_NH, kept2_NH, shape.dropout)
        d_down_HF = (active_NF.t() @ d_down_NH).t()  # a third faster than d_down_NH.t() @ active_NF
        d_up_NF = torch.ops.aten.gelu_backward(d_down_NH @ w.down_HF, up_NF)
        d_y_NH = torch.addmm(d_sum2_NH, d_up_NF, w.up_FH)
        d_sum1_NH, d_norm1_weight_H, d_norm1_bias_H = _normalise_backward(
            d_y_NH, sum1_NH, mean1_N1, rstd1_N1, w.norm1_weight_H, w.norm1_bias_H
        )
        d_attended_NH = _drop_backward(d_sum1_NH, kept1_NH, shape.dropout)
        d_context_NH = d_attended_NH @ w.out_HH
        heads = (*qkv_BT3AD.shape[:2], *qkv_BT3AD.shape[3:])
        d_qkv_BT3AD = attention_backward(
            d_context_NH.view(heads), context_NH.view(heads), qkv_BT3AD, logsumexp_BAT, ctx.keys
        )
        d_qkv_N3H = d_qkv_BT3AD.view(x_NH.shape[0], -1)
        d_x_NH = torch.addmm(d_sum1_NH, d_qkv_N3H, w.qkv_3HH)
        d_query_HH, d_key_HH, d_value_HH = (d_qkv_N3H.t() @ x_NH).chunk(3)
        d_query_H, d_key_H, d_value_H = d_qkv_N3H.sum(0).chunk(3)
        return (
            d_x_NH, None, None, None, None,
            d_query_HH, d_query_H, d_key_HH, d_key_H, d_value_HH, d_value_H,
            d_attended_NH.t() @ context_NH, d_attended_NH.sum(0), d_norm1_weight_H, d_norm1_bias_H,
            d_up_NF.t() @ y_NH, d_up_NF.sum(0), d_down_HF, d_down_NH.sum(0), d_norm2_weight_H, d_norm2_bias_H,
        )  # fmt: skip


def _add_dropped(
    residual_NH: Tensor, update_NH: Tensor, probability: float, masks: DropoutMasks | None
) -> tuple[Tensor, Tensor | None]:
    """Return residual + dropout(update), and the mask (None without dropout)."""
    if masks is None:
        return update_NH.add_(residual_NH), None
    kept_NH = masks.draw(update_NH.shape[0], update_NH.shape[1], probability, update_NH.dtype)
    return torch.addcmul(residual_NH, update_NH, kept_NH, value=1 / (1 - probability)), kept_NH


def _drop_backward(d_sum_NH: Tensor, kept_NH: Tensor | None, probability: float) -> Tensor:
    return d_sum_NH if kept_NH is None else (d_sum_NH * kept_NH).mul_(1 / (1 - probability))


def _normalise(x_NH: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x_NH, x_NH.shape[1:], weight_H, bias_H, epsilon)


def _normalise_backward(
    d_y_NH: Tensor, x_NH: Tensor, mean_N1: Tensor, rstd_N1: Tensor, weight_H: Tensor, bias_H: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of input, weight and bias in float32.

    PyTorch sums bfloat16 gradients of weight and bias in bfloat16, with an error of 5 % at 4,000 rows.
    """
    d_x_NH, d_weight_H, d_bias_H = torch.ops.aten.native_layer_norm_backward(
        d_y_NH.float().contiguous(), x_NH.float(), x_NH.shape[1:], mean_N1, rstd_N1, weight_H, bias_H, [True] * 3
    )
    return d_x_NH.to(x_NH.dtype), d_weight_H, d_bias_H
