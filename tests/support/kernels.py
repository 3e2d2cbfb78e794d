"""What the CPU kernels can do on this machine."""

import sys

import torch
from torch import Tensor

HALF = torch.bfloat16


ON_LINUX = sys.platform.startswith("linux")


HAS_HALF = ON_LINUX and torch.cpu._is_avx512_bf16_supported()


HAS_FLOATS = ON_LINUX and torch.cpu._is_avx2_supported()


def offsets_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)
