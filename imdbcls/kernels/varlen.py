"""Compute attention within each document of a concatenated sequence, with PyTorch's flash kernel (`varlen_attn`).

Shape suffixes: B documents, N tokens of the batch without padding, T tokens of a document, A attention heads, D width
of a head.
"""

import inspect
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

varlen_attn: Any = None  # available since PyTorch 2.10
if find_spec("torch.nn.attention.varlen") is not None:
    from torch.nn.attention.varlen import varlen_attn

_MAX_HEAD_WIDTH = 256  # limit of the flash kernel, which also requires that the width is a multiple of 8


class CuSeqlens(NamedTuple):
    """The boundaries of the documents in the concatenated sequence."""

    starts: Tensor  # int32 (B + 1): the first row of each document, then N
    longest: int  # an upper bound for the number of tokens in a document


def fallback_reason(head_width: int, *, sliding_window: bool = False) -> str | None:
    """Return why `varlen_attn` cannot run attention heads of this width, for log messages; None if it can.

    `sliding_window` states whether a layer limits the distance between tokens.
    """
    if head_width % 8 or head_width > _MAX_HEAD_WIDTH:
        limits = f"multiples of 8 up to {_MAX_HEAD_WIDTH}"
        return f"its attention heads have width {head_width}; flash attention needs {limits}"
    if varlen_attn is None:
        return f"PyTorch {torch.__version__} has no attention without padding (varlen_attn)"
    if sliding_window and "window_size" not in inspect.signature(varlen_attn).parameters:
        return f"varlen_attn of PyTorch {torch.__version__} has no sliding window"
    return None


def attention(
    query_NAD: Tensor, key_NAD: Tensor, value_NAD: Tensor, boundaries: CuSeqlens, window: int | None = None
) -> Tensor:
    """Compute softmax attention within each document; return context_NAD. The CUDA kernel needs bfloat16 or float16.

    With `window`, a token attends to tokens at a distance of at most `window`, in both directions.
    """
    if query_NAD.device.type == "cpu":
        return _attention_one_by_one(query_NAD, key_NAD, value_NAD, boundaries, window)
    starts, longest = boundaries
    options = {} if window is None else {"window_size": (window, window)}
    return varlen_attn(query_NAD, key_NAD, value_NAD, starts, starts, longest, longest, **options)


def _attention_one_by_one(
    query_NAD: Tensor, key_NAD: Tensor, value_NAD: Tensor, boundaries: CuSeqlens, window: int | None
) -> Tensor:
    """Compute attention on the CPU, document by document. Only tests use this function."""
    lengths = boundaries.starts.diff().tolist()
    parts_ATD = (tensor.transpose(0, 1).split(lengths, dim=1) for tensor in (query_NAD, key_NAD, value_NAD))
    contexts_ATD = [
        F.scaled_dot_product_attention(
            query_ATD[None], key_ATD[None], value_ATD[None], None if window is None else _near(length, window)
        ).squeeze(0)
        for length, query_ATD, key_ATD, value_ATD in zip(lengths, *parts_ATD, strict=True)
    ]
    return torch.cat(contexts_ATD, dim=1).transpose(0, 1)


def _near(length: int, window: int) -> Tensor:
    """Return near_TT, True where two tokens of a document are at a distance of at most `window`."""
    positions_T = torch.arange(length)
    return (positions_T[:, None] - positions_T).abs() <= window
