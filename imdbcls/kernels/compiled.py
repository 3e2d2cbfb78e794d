"""One encoder layer with compiled kernels, which compute everything between its products (`products.py`) in one pass.

N: rows, the tokens of all documents one after another (no padding), followed in bfloat16 by rows of zeros up to a round
number, which only the products need (`padded_rows`). B: documents, H: hidden size, A: heads, D = H / A, F: width of the
feed-forward layer, W: words of dropout mask bits in a row.

A layer returns its output twice, so its gradient arrives in two parts, one through the products and one through the
residual. The kernel that reads them adds them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from imdbcls.kernels.declarations import constant
from imdbcls.kernels.layer import Weights
from imdbcls.kernels.loading import Kernels
from imdbcls.kernels.products import linear, linear_backward, padded_rows, prepare, weight_gradient


class Dropout(NamedTuple):
    """The dropout masks of one forward pass: a function of the seed, the mask's number, the row and the column."""

    probability: float
    seed: int

    @classmethod
    def draw(cls, probability: float) -> "Dropout | None":
        """Draw the seed from PyTorch's default CPU generator; with probability 0, draw nothing and return None."""
        if probability == 0:
            return None
        return cls(probability, int(torch.randint(0, 2**63 - 1, (), device="cpu")))

    @property
    def threshold(self) -> int:
        """Drop an element if its 32 random bits are below this: with probability p to within 2^-33."""
        return min(round(self.probability * 2**32), 2**32 - 1)

    @property
    def scale(self) -> float:
        return 1 / (1 - self.probability) if self.probability < 1 else 0.0


class Plan(NamedTuple):
    """What the layers of one forward pass share."""

    kernels: Kernels
    offsets: Tensor  # (B + 1) int64: the first row of each document, then the number of tokens
    num_rows: int  # of tokens: the last of `offsets`
    num_heads: int
    epsilon: float
    dropout: Dropout | None

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def room(self, width: int) -> Tensor:
        """Return a matrix whose rows past the last token are zero; a kernel writes the others.

        If a width is not a multiple of 32, oneDNN may multiply the start of the next row by zero, and uninitialised
        memory may hold NaN.
        """
        matrix_NW = torch.empty((padded_rows(self.num_rows, self.kernels.dtype), width), dtype=self.kernels.dtype)
        matrix_NW[self.num_rows :] = 0
        return matrix_NW


def compute_weights(kernels: Kernels, parameters: tuple[Tensor, ...]) -> Weights:
    """Prepare one layer's sixteen parameters for the products, biases and norms in float32, in each pass (layer.py)."""
    with torch.no_grad():
        query, query_bias, key, key_bias, value, value_bias, out, out_bias, *rest = parameters
        norm1, norm1_bias, up, up_bias, down, down_bias, norm2, norm2_bias = rest
        return Weights(
            prepare(kernels, query, key, value), torch.cat((query_bias, key_bias, value_bias)),
            prepare(kernels, out), out_bias, norm1, norm1_bias,
            prepare(kernels, up), up_bias, prepare(kernels, down), down_bias, norm2, norm2_bias,
        )  # fmt: skip


class CompiledEmbeddings(torch.autograd.Function):
    """dropout(LayerNorm(word + type + position)) over all rows, returned twice like a layer's output."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        number: int,
        indices: tuple[Tensor, Tensor, Tensor],
        padding: tuple[int, int, int],
        weight_H: Tensor,
        bias_H: Tensor,
        *tables_VH: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`indices`: (N,) each, into the three tables. `padding`: the row of each that gets no gradient, or -1."""
        sum_NH, *others = (table_VH[index_N] for table_VH, index_N in zip(tables_VH, indices, strict=True))
        for other_NH in others:
            sum_NH += other_NH
        num_rows, width = sum_NH.shape
        out_NH = plan.room(width)
        mean_N, rstd_N = torch.empty((2, num_rows)).unbind(0)
        kept_NW, drawn = _mask(plan, number, width)
        plan.kernels.call(
            "normalise_and_drop", sum_NH, weight_H, bias_H, out_NH, mean_N, rstd_N, kept_NW, num_rows, width,
            plan.epsilon, *drawn,
        )  # fmt: skip
        ctx.plan, ctx.indices, ctx.padding = plan, indices, padding
        ctx.sizes = [len(table_VH) for table_VH in tables_VH]
        ctx.save_for_backward(sum_NH, mean_N, rstd_N, kept_NW, weight_H)
        ctx.set_materialize_grads(False)
        return out_NH, out_NH.view_as(out_NH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        sum_NH, mean_N, rstd_N, kept_NW, weight_H = ctx.saved_tensors
        d_out_NH, d_out2_NH = _parts(gradients)
        d_sum_NH = torch.empty_like(sum_NH)
        num_rows, width = sum_NH.shape
        partial_B2H = torch.empty((ctx.plan.kernels.blocks_of(num_rows), 2, width))
        plan = ctx.plan
        plan.kernels.call(
            "normalise_and_drop_backward", d_out_NH, d_out2_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
            partial_B2H, num_rows, width, 1.0 if plan.dropout is None else plan.dropout.scale,
        )  # fmt: skip
        d_tables_VH = (
            torch.ops.aten.embedding_dense_backward(d_sum_NH, index_N, size, row, False) if needed else None
            for index_N, size, row, needed in zip(
                ctx.indices, ctx.sizes, ctx.padding, ctx.needs_input_grad[6:], strict=True
            )
        )
        return None, None, None, None, *partial_B2H[0], *d_tables_VH


class CompiledLayer(torch.autograd.Function):
    """One post-norm encoder layer (Vaswani et al. 2017; Devlin et al. 2019) over all rows of a batch."""

    @staticmethod
    def forward(
        ctx: Any, x_NH: Tensor, residual_NH: Tensor, plan: Plan, number: int, weights: Weights, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`residual_NH` is x_NH again; `number` counts layers. The parameters only tell autograd where gradients go."""
        y_NH, saved1 = _attention_block(x_NH, residual_NH, plan, number, weights)
        z_NH, saved2 = _feed_forward_block(y_NH, plan, number, weights)
        ctx.plan, ctx.weights = plan, weights
        ctx.save_for_backward(x_NH, *saved1, y_NH, *saved2)
        ctx.set_materialize_grads(False)
        return z_NH, z_NH.view_as(z_NH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, w = ctx.plan, ctx.weights
        x_NH, qkv_N3H, context_NH, shift_AN, scale_AN, *rest = ctx.saved_tensors
        saved1, (y_NH, up_NF), saved2 = rest[:4], rest[4:6], rest[6:]
        d_z_NH, d_z2_NH = _parts(gradients)
        d_sum2_NH, d_down_NH, (d_norm2_weight_H, d_norm2_bias_H, d_down_H) = _add_and_normalise_backward(
            plan, d_z_NH, d_z2_NH, saved2, w.norm2_weight_H
        )
        d_up_NF = linear_backward(plan.kernels, d_down_NH, w.down_HF)
        active_NF = torch.empty_like(up_NF)  # only weight_gradient reads it, and only the rows of tokens
        d_up_BF = torch.empty((plan.kernels.blocks_of(plan.num_rows), up_NF.shape[1]))
        plan.kernels.call("gelu_backward", up_NF, d_up_NF, active_NF, d_up_BF, plan.num_rows, up_NF.shape[1])
        d_down_HF = weight_gradient(plan.kernels, d_down_NH, active_NF, plan.num_rows)
        d_up_FH = weight_gradient(plan.kernels, d_up_NF, y_NH, plan.num_rows)
        d_sum1_NH, d_attended_NH, (d_norm1_weight_H, d_norm1_bias_H, d_out_H) = _add_and_normalise_backward(
            plan, linear_backward(plan.kernels, d_up_NF, w.up_FH), d_sum2_NH, saved1, w.norm1_weight_H
        )
        d_out_HH = weight_gradient(plan.kernels, d_attended_NH, context_NH, plan.num_rows)
        d_qkv_N3H = plan.room(qkv_N3H.shape[1])
        d_qkv_B3H = torch.empty((plan.num_documents, qkv_N3H.shape[1]))
        d_context_NH = linear_backward(plan.kernels, d_attended_NH, w.out_HH)
        plan.kernels.call(
            "attention_backward", qkv_N3H, context_NH, d_context_NH, shift_AN, scale_AN, plan.offsets,
            d_qkv_N3H, d_qkv_B3H, plan.num_documents, plan.num_heads, x_NH.shape[1] // plan.num_heads,
        )  # fmt: skip
        d_query_HH, d_key_HH, d_value_HH = weight_gradient(plan.kernels, d_qkv_N3H, x_NH, plan.num_rows).chunk(3)
        d_query_H, d_key_H, d_value_H = d_qkv_B3H[0].chunk(3)
        return (
            linear_backward(plan.kernels, d_qkv_N3H, w.qkv_3HH), d_sum1_NH, None, None, None,
            d_query_HH, d_query_H, d_key_HH, d_key_H, d_value_HH, d_value_H,
            d_out_HH, d_out_H, d_norm1_weight_H, d_norm1_bias_H,
            d_up_FH, d_up_BF[0], d_down_HF, d_down_H, d_norm2_weight_H, d_norm2_bias_H,
        )  # fmt: skip


def _parts(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor | None]:
    """Return both parts of an output's gradient, a missing one (None) last."""
    first, second = (None if part is None else part.contiguous() for part in gradients)
    if first is None:
        first, second = second, None
    assert first is not None, "a backward pass without a gradient"
    return first, second


def _mask(plan: Plan, number: int, width: int) -> tuple[Tensor | None, tuple[int, int, int, float]]:
    """Allocate a dropout mask's bits (None without dropout), and return the kernel's arguments that draw them."""
    if plan.dropout is None:
        return None, (0, number, 0, 1.0)
    kept_NW = torch.empty((plan.num_rows, -(-width // constant("MASK_BITS"))), dtype=torch.int16)
    return kept_NW, (plan.dropout.seed, number, plan.dropout.threshold, plan.dropout.scale)


def score_layer(x_NH: Tensor, plan: Plan, number: int, weights: Weights) -> Tensor:
    """Return the layer's output if no gradient is needed: nothing is kept for backward, buffers are reused."""
    y_NH, _ = _attention_block(x_NH, x_NH, plan, number, weights, keep=False)
    z_NH, _ = _feed_forward_block(y_NH, plan, number, weights, keep=False)
    return z_NH


def _attention_block(
    x_NH: Tensor, residual_NH: Tensor, plan: Plan, number: int, w: Weights, keep: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(residual + dropout(attention(x))), and what backward needs if `keep`."""
    qkv_N3H = linear(plan.kernels, x_NH, w.qkv_3HH, w.qkv_3H)
    context_NH, shift_AN, scale_AN = _attention(plan, qkv_N3H, keep)
    attended_NH = linear(plan.kernels, context_NH, w.out_HH, w.out_H)
    y_NH, saved = _add_and_normalise(plan, 2 * number, residual_NH, attended_NH, w.norm1_weight_H, w.norm1_bias_H, keep)
    return y_NH, (qkv_N3H, context_NH, shift_AN, scale_AN, *saved) if keep else ()


def _feed_forward_block(
    y_NH: Tensor, plan: Plan, number: int, w: Weights, keep: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(y + dropout(feed-forward(y))), and what backward needs if `keep`."""
    up_NF = linear(plan.kernels, y_NH, w.up_FH, w.up_F)
    active_NF = plan.room(up_NF.shape[1]) if keep else up_NF
    plan.kernels.call("gelu", up_NF, active_NF, plan.num_rows, up_NF.shape[1])
    down_NH = linear(plan.kernels, active_NF, w.down_HF, w.down_H)
    z_NH, saved = _add_and_normalise(plan, 2 * number + 1, y_NH, down_NH, w.norm2_weight_H, w.norm2_bias_H, keep)
    return z_NH, (up_NF, *saved) if keep else ()


def _attention(plan: Plan, qkv_N3H: Tensor, keep: bool = True) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return context_NH and, if `keep`, each row's shift and 1 / sum of its exponentials, per head, for backward."""
    width = qkv_N3H.shape[1] // 3
    context_NH = plan.room(width)
    shift_AN, scale_AN = torch.empty((2, plan.num_heads, plan.num_rows)).unbind(0) if keep else (None, None)
    plan.kernels.call(
        "attention", qkv_N3H, plan.offsets, context_NH, shift_AN, scale_AN,
        plan.num_documents, plan.num_heads, width // plan.num_heads,
    )  # fmt: skip
    return context_NH, shift_AN, scale_AN


def _add_and_normalise(
    plan: Plan,
    mask: int,
    residual_NH: Tensor,
    update_NH: Tensor,
    weight_H: Tensor,
    bias_H: Tensor,
    keep: bool = True,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(residual + dropout(update)), and the sum, its mean and reciprocal standard deviation, and the
    bits of dropout mask number `mask` (None without dropout). Without `keep`, the statistics are None."""
    num_rows, width = plan.num_rows, update_NH.shape[1]
    out_NH = plan.room(width)
    sum_NH = torch.empty_like(update_NH) if keep else None
    mean_N, rstd_N = torch.empty((2, num_rows)).unbind(0) if keep else (None, None)
    kept_NW, drawn = _mask(plan, mask, width)
    plan.kernels.call(
        "add_and_normalise", residual_NH, update_NH, weight_H, bias_H, sum_NH, out_NH, mean_N, rstd_N,
        kept_NW, num_rows, width, plan.epsilon, *drawn,
    )  # fmt: skip
    return out_NH, (sum_NH, mean_N, rstd_N, kept_NW)


def _add_and_normalise_backward(
    plan: Plan, d_out_NH: Tensor, d_out2_NH: Tensor | None, saved: tuple[Tensor | None, ...], weight_H: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the residual, of the update, and (3, H) of weight, bias and the update's own bias."""
    sum_NH, mean_N, rstd_N, kept_NW = saved
    num_rows, width = plan.num_rows, d_out_NH.shape[1]
    d_sum_NH = plan.room(width)
    d_update_NH = None if kept_NW is None else plan.room(width)
    partial_B3H = torch.empty((plan.kernels.blocks_of(num_rows), 3, width))
    plan.kernels.call(
        "add_and_normalise_backward", d_out_NH, d_out2_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
        d_update_NH, partial_B3H, num_rows, width, 1.0 if plan.dropout is None else plan.dropout.scale,
    )  # fmt: skip
    return d_sum_NH, d_sum_NH if d_update_NH is None else d_update_NH, partial_B3H[0]
