"""Helpers for the tests of the CPU kernels."""

import torch
from torch import Tensor

HALF = torch.bfloat16


def cu_seqlens_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)
