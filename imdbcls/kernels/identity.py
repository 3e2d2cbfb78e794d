"""Name the implementation that computes a run's numbers, for `result.json` and for cache keys."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from imdbcls.kernels import encoder as cpu
from imdbcls.kernels.heads import kernels_of_head
from imdbcls.kernels.loading import Kernels

PYTORCH = "pytorch"
_SOURCES = (".py", ".c", ".h")


def numeric_path(encoder: nn.Module, head: nn.Module, *, device: str, dtype: torch.dtype, training: bool) -> str:
    """Return the name of the kernels in use: `avx512_bf16+amx`, `avx512_bf16`, `avx2_fp32`, or `pytorch`.

    If the encoder and the head use different kernels, the names are joined by "and". The kernels are loaded, and
    compiled if needed.
    """
    kernels = _kernels_of(encoder, head, dtype, training) if device == "cpu" else iter([None])
    return " and ".join(sorted({PYTORCH if used is None else used.name for used in kernels}))


def _kernels_of(encoder: nn.Module, head: nn.Module, dtype: torch.dtype, training: bool) -> Iterator[Kernels | None]:
    """Yield the kernels of the encoder and of each LSTM and GRU in the head, or None for PyTorch's operations."""
    is_accelerated = cpu.runs_accelerated_layers(encoder, training)
    yield cpu.kernels_for(encoder, dtype) if is_accelerated else None
    yield from kernels_of_head(head, dtype)


def source_digest() -> str:
    """Return a hash of the source files of `imdbcls.kernels`, which determine the last bits of results."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in _SOURCES):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
