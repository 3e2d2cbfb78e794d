"""Exact softmax attention on the CPU whose backward pass is plain matrix products.

B: documents, T: tokens (padded), A: attention heads, D: width of a head, E: width of an extended head,
R: rows = B * A, C: rows of a chunk, H = A * D: hidden size.

PyTorch's fused CPU attention is fast forward and slow backward (47 ms, here 17 ms, at 16 documents of 272 tokens), so
only forward uses it. The products of backward also compute the terms around them: each head of width D gets a few more
columns, so that one product yields
    scale * q.k - logsumexp + key bias     (the log of the attention probability, padding included)
and another  dO.v - rowsum(dO * O).  Products accumulate in float32, so the logarithm is rounded once, *after* the
subtraction, and a bfloat16 probability is as accurate as one from a softmax in float32.
"""

import math

import torch
from torch import Tensor

# A padded key's bias, in units of the logarithm: exp(-30000) is zero in every floating type.
_PADDED = -30000.0
# Bytes of scores computed at once: more do not fit the cache, fewer need more calls.
_CHUNK_BYTES = 8 << 20


class KeyMask:
    """The padding of a batch in the two forms that attention needs."""

    def __init__(self, mask_BT: Tensor, dtype: torch.dtype) -> None:
        """`mask_BT` is True at tokens. A batch without padding needs no bias."""
        self.bias_BT: Tensor | None = None
        self.bias_B11T: Tensor | None = None
        if not bool(mask_BT.all()):
            zeros_BT = torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device)
            self.bias_BT = zeros_BT.masked_fill(~mask_BT, _PADDED)
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
    """Return d_qkv_BT3AD. Exact: probabilities are recomputed, not approximated."""
    width = qkv_BT3AD.shape[-1]
    scale = width**-0.5
    query_BATD, key_BATD, value_BATD = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
    query_BATE, key_BATE = _extend(query_BATD * scale), _extend(key_BATD)
    value_BATE, d_context_BATE = _extend(value_BATD), _extend(d_context_BTAD.transpose(1, 2))
    # In float32, the products too: the gradient of a score is a small difference of large numbers.
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
    d_qkv_3BATD[1] = d_key_BATE[..., :width]  # the query held the scale already
    d_qkv_3BATD[2] = d_value_BATE[..., :width]
    return d_qkv_BT3AD


def _multiply_backward(*extended_BATE: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of extended query, key and value, given these and that of the context; all (B, A, T, E)."""
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
    """Copy heads of width D to contiguous heads of width E, with zeros in the further columns."""
    width = source_BATD.shape[-1]
    target_BATE = source_BATD.new_empty((*source_BATD.shape[:-1], _extended_width(width)))
    target_BATE[..., :width] = source_BATD
    target_BATE[..., width:] = 0
    return target_BATE


def _extended_width(width: int) -> int:
    """Room for three more columns, at a multiple of 16: other widths run up to a fifth slower here."""
    return -(-(width + 3) // 16) * 16


def _write_pair(target_BATE: Tensor, column: int, value_BAT: Tensor) -> None:
    """Write an fp32 value as the sum of two columns of the target's dtype (16 bits of mantissa in bf16)."""
    high_BAT = value_BAT.to(target_BATE.dtype)
    target_BATE[..., column] = high_BAT
    target_BATE[..., column + 1] = value_BAT - high_BAT
