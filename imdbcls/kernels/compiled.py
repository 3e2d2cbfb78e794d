"""An encoder layer with compiled kernels, which fuse all operations between two matrix products (`products.py`).

The rows are the tokens of all documents, one after another, without padding. In bfloat16, rows of zeros follow, because
matrix products need a rounded number of rows (`padded_rows`).

A layer returns its output twice: for the products and for the residual connection of the next layer. The gradient of
the output therefore arrives in two parts, and the kernel that reads the parts also adds them.

Shape suffixes: N rows, B documents, H hidden size, A attention heads, D = H / A, F width of the feed-forward layer,
W words of dropout mask bits in a row.
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
    """The dropout masks of one forward pass. A bit depends only on the seed, mask number, row and column."""

    probability: float
    seed: int

    @classmethod
    def draw(cls, probability: float) -> "Dropout | None":
        """Draw the seed from PyTorch's default CPU generator. If `probability` is 0, draw nothing and return None."""
        if probability == 0:
            return None
        return cls(probability, int(torch.randint(0, 2**63 - 1, (), device="cpu")))

    @property
    def threshold(self) -> int:
        """An element is dropped if its 32 random bits are below this threshold.

        The probability is exact to within 2^-33.
        """
        return min(round(self.probability * 2**32), 2**32 - 1)

    @property
    def scale(self) -> float:
        return 1 / (1 - self.probability) if self.probability < 1 else 0.0


class PackedBatch(NamedTuple):
    """A batch without padding, and the settings that all layers of one forward pass share."""

    kernels: Kernels
    offsets: Tensor  # (B + 1) int64: the first row of each document, then the number of tokens
    num_rows: int  # the number of tokens, equal to the last offset
    num_heads: int
    epsilon: float
    dropout: Dropout | None

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def empty_rows(self, width: int) -> Tensor:
        """Return an uninitialized matrix for the tokens, followed by zero rows up to the padded number of rows.

        The zero rows are necessary. If the width is not a multiple of 32, oneDNN may multiply the start of the next row
        by zero, and uninitialized memory may contain NaN.
        """
        matrix_NW = torch.empty((padded_rows(self.num_rows, self.kernels.dtype), width), dtype=self.kernels.dtype)
        matrix_NW[self.num_rows :] = 0
        return matrix_NW


def compute_weights(kernels: Kernels, parameters: tuple[Tensor, ...]) -> Weights:
    """Prepare the sixteen parameters of a layer for the matrix products; biases and norms stay in float32.

    Each pass prepares the parameters again, except within `inference_weights`; `layer.compute_weights` explains why.
    """
    with torch.no_grad():
        query, query_bias, key, key_bias, value, value_bias, out, out_bias, *rest = parameters
        norm1, norm1_bias, up, up_bias, down, down_bias, norm2, norm2_bias = rest
        return Weights(
            prepare(kernels, query, key, value), torch.cat((query_bias, key_bias, value_bias)),
            prepare(kernels, out), out_bias, norm1, norm1_bias,
            prepare(kernels, up), up_bias, prepare(kernels, down), down_bias, norm2, norm2_bias,
        )  # fmt: skip


class CompiledEmbeddings(torch.autograd.Function):
    """Return dropout(LayerNorm(word + type + position)) of all rows twice: for the first layer and for its residual."""

    @staticmethod
    def forward(
        ctx: Any,
        batch: PackedBatch,
        number: int,
        indices: tuple[Tensor, Tensor, Tensor],
        padding: tuple[int, int, int],
        weight_H: Tensor,
        bias_H: Tensor,
        *tables_VH: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute the embeddings.

        `tables_VH` are the tables of word, type and position embeddings. `indices` are the row numbers in each table,
        three tensors (N,). `padding` contains, for each table, the row that gets no gradient, or -1. `number` is the
        number of the dropout mask.
        """
        sum_NH, *others = (table_VH[index_N] for table_VH, index_N in zip(tables_VH, indices, strict=True))
        for other_NH in others:
            sum_NH += other_NH
        num_rows, width = sum_NH.shape
        out_NH = batch.empty_rows(width)
        mean_N, rstd_N = torch.empty((2, num_rows)).unbind(0)
        kept_NW, drawn = _mask(batch, number, width)
        batch.kernels.call(
            "normalise_and_drop", sum_NH, weight_H, bias_H, out_NH, mean_N, rstd_N, kept_NW, num_rows, width,
            batch.epsilon, *drawn,
        )  # fmt: skip
        ctx.batch, ctx.indices, ctx.padding = batch, indices, padding
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
        partial_B2H = torch.empty((ctx.batch.kernels.blocks_of(num_rows), 2, width))
        batch = ctx.batch
        batch.kernels.call(
            "normalise_and_drop_backward", d_out_NH, d_out2_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
            partial_B2H, num_rows, width, 1.0 if batch.dropout is None else batch.dropout.scale,
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
        ctx: Any,
        x_NH: Tensor,
        residual_NH: Tensor,
        batch: PackedBatch,
        number: int,
        weights: Weights,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output twice: for the matrix products and for the residual connection of the next layer.

        `residual_NH` has the same values as `x_NH`. `number` is the index of the layer. The computation uses `weights`.
        `parameters` are the tensors to which autograd assigns the gradients.
        """
        y_NH, saved1 = _attention_block(x_NH, residual_NH, batch, number, weights)
        z_NH, saved2 = _feed_forward_block(y_NH, batch, number, weights)
        ctx.batch, ctx.weights = batch, weights
        ctx.save_for_backward(x_NH, *saved1, y_NH, *saved2)
        ctx.set_materialize_grads(False)
        return z_NH, z_NH.view_as(z_NH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        batch, w = ctx.batch, ctx.weights
        x_NH, qkv_N3H, context_NH, shift_AN, scale_AN, *rest = ctx.saved_tensors
        saved1, (y_NH, up_NF), saved2 = rest[:4], rest[4:6], rest[6:]
        d_z_NH, d_z2_NH = _parts(gradients)
        d_sum2_NH, d_down_NH, (d_norm2_weight_H, d_norm2_bias_H, d_down_H) = _add_and_normalise_backward(
            batch, d_z_NH, d_z2_NH, saved2, w.norm2_weight_H
        )
        d_up_NF = linear_backward(batch.kernels, d_down_NH, w.down_HF)
        # Not zeroed: only `weight_gradient` reads this buffer, and only its first `num_rows` rows, which are tokens.
        active_NF = torch.empty_like(up_NF)
        d_up_BF = torch.empty((batch.kernels.blocks_of(batch.num_rows), up_NF.shape[1]))
        batch.kernels.call("gelu_backward", up_NF, d_up_NF, active_NF, d_up_BF, batch.num_rows, up_NF.shape[1])
        d_down_HF = weight_gradient(batch.kernels, d_down_NH, active_NF, batch.num_rows)
        d_up_FH = weight_gradient(batch.kernels, d_up_NF, y_NH, batch.num_rows)
        d_sum1_NH, d_attended_NH, (d_norm1_weight_H, d_norm1_bias_H, d_out_H) = _add_and_normalise_backward(
            batch, linear_backward(batch.kernels, d_up_NF, w.up_FH), d_sum2_NH, saved1, w.norm1_weight_H
        )
        d_out_HH = weight_gradient(batch.kernels, d_attended_NH, context_NH, batch.num_rows)
        d_qkv_N3H = batch.empty_rows(qkv_N3H.shape[1])
        d_qkv_B3H = torch.empty((batch.num_documents, qkv_N3H.shape[1]))
        d_context_NH = linear_backward(batch.kernels, d_attended_NH, w.out_HH)
        batch.kernels.call(
            "attention_backward", qkv_N3H, context_NH, d_context_NH, shift_AN, scale_AN, batch.offsets,
            d_qkv_N3H, d_qkv_B3H, batch.num_documents, batch.num_heads, x_NH.shape[1] // batch.num_heads,
        )  # fmt: skip
        d_query_HH, d_key_HH, d_value_HH = weight_gradient(batch.kernels, d_qkv_N3H, x_NH, batch.num_rows).chunk(3)
        d_query_H, d_key_H, d_value_H = d_qkv_B3H[0].chunk(3)
        return (
            linear_backward(batch.kernels, d_qkv_N3H, w.qkv_3HH), d_sum1_NH, None, None, None,
            d_query_HH, d_query_H, d_key_HH, d_key_H, d_value_HH, d_value_H,
            d_out_HH, d_out_H, d_norm1_weight_H, d_norm1_bias_H,
            d_up_FH, d_up_BF[0], d_down_HF, d_down_H, d_norm2_weight_H, d_norm2_bias_H,
        )  # fmt: skip


def _parts(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor | None]:
    """Return the two parts of an output's gradient. If one part is None, it comes last."""
    first, second = (None if part is None else part.contiguous() for part in gradients)
    if first is None:
        first, second = second, None
    assert first is not None, "a backward pass without a gradient"
    return first, second


def _mask(batch: PackedBatch, number: int, width: int) -> tuple[Tensor | None, tuple[int, int, int, float]]:
    """Return an uninitialized tensor for mask bits (None without dropout), and the kernel's dropout arguments."""
    if batch.dropout is None:
        return None, (0, number, 0, 1.0)
    kept_NW = torch.empty((batch.num_rows, -(-width // constant("MASK_BITS"))), dtype=torch.int16)
    return kept_NW, (batch.dropout.seed, number, batch.dropout.threshold, batch.dropout.scale)


def inference_layer(x_NH: Tensor, batch: PackedBatch, number: int, weights: Weights) -> Tensor:
    """Return the layer's output for a forward pass without gradients: nothing is saved, and buffers are reused."""
    y_NH, _ = _attention_block(x_NH, x_NH, batch, number, weights, keep=False)
    z_NH, _ = _feed_forward_block(y_NH, batch, number, weights, keep=False)
    return z_NH


def _attention_block(
    x_NH: Tensor, residual_NH: Tensor, batch: PackedBatch, number: int, w: Weights, keep: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(residual + dropout(attention(x))), and the tensors for backward if `keep`."""
    qkv_N3H = linear(batch.kernels, x_NH, w.qkv_3HH, w.qkv_3H)
    context_NH, shift_AN, scale_AN = _attention(batch, qkv_N3H, keep)
    attended_NH = linear(batch.kernels, context_NH, w.out_HH, w.out_H)
    y_NH, saved = _add_and_normalise(
        batch, 2 * number, residual_NH, attended_NH, w.norm1_weight_H, w.norm1_bias_H, keep
    )
    return y_NH, (qkv_N3H, context_NH, shift_AN, scale_AN, *saved) if keep else ()


def _feed_forward_block(
    y_NH: Tensor, batch: PackedBatch, number: int, w: Weights, keep: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(y + dropout(feed-forward(y))), and the tensors for backward if `keep`."""
    up_NF = linear(batch.kernels, y_NH, w.up_FH, w.up_F)
    active_NF = batch.empty_rows(up_NF.shape[1]) if keep else up_NF
    batch.kernels.call("gelu", up_NF, active_NF, batch.num_rows, up_NF.shape[1])
    down_NH = linear(batch.kernels, active_NF, w.down_HF, w.down_H)
    z_NH, saved = _add_and_normalise(batch, 2 * number + 1, y_NH, down_NH, w.norm2_weight_H, w.norm2_bias_H, keep)
    return z_NH, (up_NF, *saved) if keep else ()


def _attention(batch: PackedBatch, qkv_N3H: Tensor, keep: bool = True) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return context_NH and, if `keep`, the shift and the reciprocal sum of the softmax for each head and row."""
    width = qkv_N3H.shape[1] // 3
    context_NH = batch.empty_rows(width)
    shift_AN, scale_AN = torch.empty((2, batch.num_heads, batch.num_rows)).unbind(0) if keep else (None, None)
    batch.kernels.call(
        "attention", qkv_N3H, batch.offsets, context_NH, shift_AN, scale_AN,
        batch.num_documents, batch.num_heads, width // batch.num_heads,
    )  # fmt: skip
    return context_NH, shift_AN, scale_AN


def _add_and_normalise(
    batch: PackedBatch,
    mask: int,
    residual_NH: Tensor,
    update_NH: Tensor,
    weight_H: Tensor,
    bias_H: Tensor,
    keep: bool = True,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return LayerNorm(residual + dropout(update)), and the tensors for backward.

    The tensors for backward are the sum, its mean and its reciprocal standard deviation (all None without `keep`), and
    the bits of dropout mask number `mask` (None without dropout).
    """
    num_rows, width = batch.num_rows, update_NH.shape[1]
    out_NH = batch.empty_rows(width)
    sum_NH = torch.empty_like(update_NH) if keep else None
    mean_N, rstd_N = torch.empty((2, num_rows)).unbind(0) if keep else (None, None)
    kept_NW, drawn = _mask(batch, mask, width)
    batch.kernels.call(
        "add_and_normalise", residual_NH, update_NH, weight_H, bias_H, sum_NH, out_NH, mean_N, rstd_N,
        kept_NW, num_rows, width, batch.epsilon, *drawn,
    )  # fmt: skip
    return out_NH, (sum_NH, mean_N, rstd_N, kept_NW)


def _add_and_normalise_backward(
    batch: PackedBatch, d_out_NH: Tensor, d_out2_NH: Tensor | None, saved: tuple[Tensor | None, ...], weight_H: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the residual, of the update, and of three vectors in a (3, H) tensor.

    The three vectors are the weight and bias of the layer norm, and the bias of the linear layer that computes the
    update.
    """
    sum_NH, mean_N, rstd_N, kept_NW = saved
    num_rows, width = batch.num_rows, d_out_NH.shape[1]
    d_sum_NH = batch.empty_rows(width)
    d_update_NH = None if kept_NW is None else batch.empty_rows(width)
    partial_B3H = torch.empty((batch.kernels.blocks_of(num_rows), 3, width))
    batch.kernels.call(
        "add_and_normalise_backward", d_out_NH, d_out2_NH, sum_NH, mean_N, rstd_N, weight_H, kept_NW, d_sum_NH,
        d_update_NH, partial_B3H, num_rows, width, 1.0 if batch.dropout is None else batch.dropout.scale,
    )  # fmt: skip
    return d_sum_NH, d_sum_NH if d_update_NH is None else d_update_NH, partial_B3H[0]
