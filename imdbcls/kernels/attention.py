"""Exact softmax attention on the CPU, with a backward pass made of matrix products.

PyTorch's fused CPU attention is fast in forward and slow in backward: 47 ms, against 17 ms for this code, with 16
documents of 272 tokens. So only the forward pass uses it.

In the backward pass, the matrices of each head (width D) get a few more columns. Then one matrix product yields the
logarithm of the attention probabilities, including the padding mask,
    scale * q.k - logsumexp + key bias
and another yields dO.v - rowsum(dO * O). The products accumulate in float32, so the logarithm is rounded only once,
after the subtraction. A bfloat16 probability is therefore as accurate as a probability from a float32 softmax.

Shape suffixes: B documents, T tokens (padded), A attention heads, D width of a head, E width of an extended head,
R = B * A rows, C rows of a chunk, H = A * D hidden size.
"""

import math

import torch
from torch import Tensor

_PADDING_BIAS = -30000.0  # added to the log probability of a padded key: exp(-30000) is zero in every dtype
# The size of the scores in one chunk. Larger chunks do not fit into the CPU cache; smaller chunks need more calls.
_CHUNK_BYTES = 8 << 20


class KeyMask:
    """The padding mask of a batch as additive biases for forward and backward. Without padding, the biases are None."""

    def __init__(self, mask_BT: Tensor, dtype: torch.dtype) -> None:
        """Build the biases from `mask_BT`, which is True at non-padding tokens."""
        self.bias_BT: Tensor | None = None
        self.bias_B11T: Tensor | None = None
        if not bool(mask_BT.all()):
            zeros_BT = torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device)
            self.bias_BT = zeros_BT.masked_fill(~mask_BT, _PADDING_BIAS)
            self.bias_B11T = zeros_BT.masked_fill(~mask_BT, -math.inf)[:, None, None, :]


def attention_forward(qkv_BT3AD: Tensor, keys: KeyMask) -> tuple[Tensor, Tensor]:
    """Return context_BTAD and logsumexp_BAT (fp32). Padded keys get probability zero."""
    query_BATD, key_BATD, value_BATD = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
    context_BATD, logsumexp_BAT = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_BATD, key_BATD, value_BATD, attn_mask=keys.bias_B11T
    )
    return context_BATD.transpose(1, 2), logsumexp_BAT


def attention_backward(
    d_context_BTAD: Tensor, context_BTAD: Tensor, qkv_BT3AD: Tensor, logsumexp_BAT: Tensor, keys: KeyMask
) -> Tensor:
    """Return d_qkv_BT3AD. The attention probabilities are recomputed exactly."""
    width = qkv_BT3AD.shape[-1]
    scale = width**-0.5
    query_BATD, key_BATD, value_BATD = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
    query_BATE, key_BATE = _extend(query_BATD * scale), _extend(key_BATD)
    value_BATE, d_context_BATE = _extend(value_BATD), _extend(d_context_BTAD.transpose(1, 2))
    # Use float32, even for the products, because the gradient of a score is a small difference of large numbers.
    delta_BAT = (d_context_BTAD.float() * context_BTAD).sum(-1).transpose(1, 2)
    _write_pair(query_BATE, width, -logsumexp_BAT)
    _write_pair(d_context_BATE, width, -delta_BAT)
    key_BATE[..., width : width + 2] = 1
    value_BATE[..., width : width + 2] = 1
    if keys.bias_BT is not None:
        query_BATE[..., width + 2] = 1
        key_BATE[..., width + 2] = keys.bias_BT[:, None, :]

    d_query_BATE, d_key_BATE, d_value_BATE = _multiply_backward(query_BATE, key_BATE, value_BATE, d_context_BATE)
    d_qkv_BT3AD = torch.empty_like(qkv_BT3AD)
    d_qkv_3BATD = d_qkv_BT3AD.permute(2, 0, 3, 1, 4)
    torch.mul(d_query_BATE[..., :width], scale, out=d_qkv_3BATD[0])
    d_qkv_3BATD[1] = d_key_BATE[..., :width]  # already scaled, because the query was scaled
    d_qkv_3BATD[2] = d_value_BATE[..., :width]
    return d_qkv_BT3AD


def _multiply_backward(*extended_BATE: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the extended query, key and value; all tensors have the shape (B, A, T, E).

    The arguments are the extended query, key and value, and the extended gradient of the context.
    """
    query_RTE, key_RTE, value_RTE, d_context_RTE = (tensor.flatten(0, 1) for tensor in extended_BATE)
    num_rows, num_tokens, _ = query_RTE.shape
    d_query_RTE, d_key_RTE, d_value_RTE = query_RTE.new_empty((3, *query_RTE.shape)).unbind(0)
    chunk = max(1, min(num_rows, _CHUNK_BYTES // (num_tokens * num_tokens * query_RTE.element_size())))
    probability_CTT = query_RTE.new_empty((chunk, num_tokens, num_tokens))
    d_score_CTT = torch.empty_like(probability_CTT)
    for start in range(0, num_rows, chunk):
        rows = slice(start, min(start + chunk, num_rows))
        size = rows.stop - rows.start
        p_CTT, ds_CTT = probability_CTT[:size], d_score_CTT[:size]
        torch.bmm(query_RTE[rows], key_RTE[rows].transpose(1, 2), out=p_CTT).exp_()
        torch.bmm(p_CTT.transpose(1, 2), d_context_RTE[rows], out=d_value_RTE[rows])
        torch.bmm(d_context_RTE[rows], value_RTE[rows].transpose(1, 2), out=ds_CTT).mul_(p_CTT)
        torch.bmm(ds_CTT, key_RTE[rows], out=d_query_RTE[rows])
        torch.bmm(ds_CTT.transpose(1, 2), query_RTE[rows], out=d_key_RTE[rows])
    return tuple(tensor.view(extended_BATE[0].shape) for tensor in (d_query_RTE, d_key_RTE, d_value_RTE))


def _extend(source_BATD: Tensor) -> Tensor:
    """Copy heads of width D into contiguous heads of width E, with zeros in the added columns."""
    width = source_BATD.shape[-1]
    target_BATE = source_BATD.new_empty((*source_BATD.shape[:-1], _extended_width(width)))
    target_BATE[..., :width] = source_BATD
    target_BATE[..., width:] = 0
    return target_BATE


def _extended_width(width: int) -> int:
    """Return the width with three more columns, rounded up to a multiple of 16. Other widths are up to 20 % slower."""
    return -(-(width + 3) // 16) * 16


def _write_pair(target_BATE: Tensor, column: int, value_BAT: Tensor) -> None:
    """Write each float32 value as the sum of two columns of `target_BATE`. In bfloat16, the sum is exact to 16 bits."""
    high_BAT = value_BAT.to(target_BATE.dtype)
    target_BATE[..., column] = high_BAT
    target_BATE[..., column + 1] = value_BAT - high_BAT
