"""Exact softmax attention on the CPU whose backward pass is plain matrix products.

B: documents, T: tokens (padded), A: attention heads, D: width of a head, E: width of an extended head,
R: rows = B * A, H = A * D: hidden size.

PyTorch's fused CPU attention is fast forward and slow backward (47 ms against 17 ms here at 16 documents
of 272 tokens), so forward uses it and backward does not. What backward needs beside the products is folded
into them: each head of width D gets a few more columns, so that one product yields
    scale * q.k - logsumexp + key bias     (the log of the attention probability, padding included)
and another  dO.v - rowsum(dO * O).  The products accumulate in fp32, hence the logarithm is rounded once,
*after* the subtraction, and a bf16 probability is as good as one from a softmax in fp32.
"""

import math

import torch
from torch import Tensor

# A padded key's bias, in units of the logarithm: exp(-30000) is zero in every floating type.
_PADDED = -30000.0
# Scores of that many bytes are in flight at once; more leaves the cache, fewer pays for more calls.
_CHUNK_BYTES = 8 << 20


class KeyMask:
    """The padding of a batch in the two forms that attention asks for."""

    def __init__(self, mask_BT: Tensor, dtype: torch.dtype) -> None:
        """mask_BT is true at real tokens. A batch without padding costs nothing."""
        self.bias_BT: Tensor | None = None
        self.bias_B11T: Tensor | None = None
        if not bool(mask_BT.all()):
            zeros_BT = torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device)
            self.bias_BT = zeros_BT.masked_fill(~mask_BT, _PADDED)
            self.bias_B11T = zeros_BT.masked_fill(~mask_BT, -math.inf)[:, None, None, :]


def attention_forward(qkv_BT3AD: Tensor, keys: KeyMask) -> tuple[Tensor, Tensor]:
    """Returns context_BTAD and logsumexp_BAT (fp32). Padded keys get probability zero."""
    query_BATD, key_BATD, value_BATD = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
    context_BATD, logsumexp_BAT = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_BATD, key_BATD, value_BATD, attn_mask=keys.bias_B11T
    )
    return context_BATD.transpose(1, 2), logsumexp_BAT


def attention_backward(
    d_context_BTAD: Tensor, context_BTAD: Tensor, qkv_BT3AD: Tensor, logsumexp_BAT: Tensor, keys: KeyMask
) -> Tensor:
    """Returns d_qkv_BT3AD. Exact: probabilities are recomputed, not approximated."""
    num_documents, num_tokens, _, num_heads, width = qkv_BT3AD.shape
    scale = width**-0.5
    extended = _extended_width(width)
    shape = (num_documents, num_heads, num_tokens, extended)

    def extend(source_BATD: Tensor) -> Tensor:
        target_BATE = source_BATD.new_empty(shape)
        target_BATE[..., :width] = source_BATD
        target_BATE[..., width:] = 0
        return target_BATE

    query_BATD, key_BATD, value_BATD = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
    d_context_BATD = d_context_BTAD.transpose(1, 2)
    query_BATE = extend(query_BATD * scale)
    key_BATE, value_BATE, d_context_BATE = extend(key_BATD), extend(value_BATD), extend(d_context_BATD)
    # In fp32, the products too: the score's gradient is a small difference of large numbers.
    delta_BAT = (d_context_BTAD.float() * context_BTAD).sum(-1).transpose(1, 2)
    _write_pair(query_BATE, width, -logsumexp_BAT)
    _write_pair(d_context_BATE, width, -delta_BAT)
    key_BATE[..., width : width + 2] = 1
    value_BATE[..., width : width + 2] = 1
    if keys.bias_BT is not None:
        query_BATE[..., width + 2] = 1
        key_BATE[..., width + 2] = keys.bias_BT[:, None, :]

    num_rows = num_documents * num_heads
    query_RTE, key_RTE, value_RTE, d_context_RTE = (
        tensor.view(num_rows, num_tokens, extended) for tensor in (query_BATE, key_BATE, value_BATE, d_context_BATE)
    )
    d_query_RTE, d_key_RTE, d_value_RTE = query_RTE.new_empty((3, num_rows, num_tokens, extended)).unbind(0)
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

    d_qkv_BT3AD = torch.empty_like(qkv_BT3AD)
    d_qkv_3BATD = d_qkv_BT3AD.permute(2, 0, 3, 1, 4)
    torch.mul(d_query_RTE.view(shape)[..., :width], scale, out=d_qkv_3BATD[0])
    d_qkv_3BATD[1] = d_key_RTE.view(shape)[..., :width]  # the query held the scale already
    d_qkv_3BATD[2] = d_value_RTE.view(shape)[..., :width]
    return d_qkv_BT3AD


def _extended_width(width: int) -> int:
    """Room for three more columns, at a multiple of 16: other widths run up to a fifth slower here."""
    return -(-(width + 3) // 16) * 16


def _write_pair(target_BATE: Tensor, column: int, value_BAT: Tensor) -> None:
    """Write an fp32 value as the sum of two columns of the target's dtype (16 bits of mantissa in bf16)."""
    high_BAT = value_BAT.to(target_BATE.dtype)
    target_BATE[..., column] = high_BAT
    target_BATE[..., column + 1] = value_BAT - high_BAT
