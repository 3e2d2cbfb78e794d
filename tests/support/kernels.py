"""Helpers for the tests of the CPU kernels."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from imdbcls.kernels import loading
from imdbcls.kernels.building import object_path
from support.hardware import HAS_FLOATS, HAS_HALF, NO_AMX, NO_AVX2, NO_BF16

HALF = torch.bfloat16


def cu_seqlens_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def library(name: str) -> Iterator[loading.Kernels]:
    """Yield the kernels `amx`, `avx512` or `avx2`, even if runs on this machine would not use them.

    The first two are the bfloat16 kernels with and without AMX; `avx2` are the float32 kernels.
    """
    dtype = torch.float32 if name == "avx2" else HALF
    if not (HAS_FLOATS if dtype == torch.float32 else HAS_HALF):
        pytest.skip(NO_AVX2 if dtype == torch.float32 else NO_BF16)
    loading.find_or_build(dtype)
    path = object_path(dtype)
    if name == "amx" and not loading.Kernels(path, dtype).uses_amx:
        pytest.skip(NO_AMX)
    yield loading.Kernels(path, dtype, allow_amx=name == "amx")
    loading.Kernels(path, dtype)  # allow AMX again: the setting is global in the loaded library


def limit(loaded: loading.Kernels, in_bf16: float) -> float:
    """Return the tolerance: `in_bf16` for bfloat16, 2e-6 (a few rounding errors) for float32."""
    return in_bf16 if loaded.dtype == HALF else 2e-6


def random(*shape: int) -> Tensor:
    """Return random numbers that bfloat16 represents exactly."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1])).to(HALF)


def unwritten(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an output buffer filled with NaN, so that elements that a kernel does not write are detected."""
    return torch.full(shape, torch.nan, dtype=dtype)


def with_one_and_three_threads(results: Callable[[], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_thread = results()
        torch.set_num_threads(3)
        return one_thread, results()
    finally:
        torch.set_num_threads(threads)
