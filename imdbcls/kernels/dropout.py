"""Dropout masks at a tenth of the cost of `bernoulli_`, determined by `torch.manual_seed`."""

import math

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16


class DropoutMasks:
    """A stream of masks, seeded once per forward pass from PyTorch's default CPU generator.

    Each element compares 16 random bits with a threshold. p = 0.1 is not a multiple of 1/65536, so the threshold of a
    mask is drawn from the two neighbours such that an element is dropped with probability exactly p. The bits are
    NumPy's SFC64: NumPy promises not to change its raw stream.
    """

    def __init__(self) -> None:
        seed = torch.randint(0, 2**63 - 1, (2,), device="cpu").tolist()
        self._bits = np.random.SFC64(seed)

    def draw(self, num_rows: int, width: int, probability: float, dtype: torch.dtype) -> Tensor:
        """Return (num_rows, width): 1 where the element is kept, 0 where it is dropped, not yet scaled."""
        words = self._bits.random_raw(-(-num_rows * width // 4) + 1)
        threshold = probability * _LEVELS
        fraction = threshold - math.floor(threshold)
        round_up = int(words[-1]) < fraction * 2.0**64
        count = num_rows * width
        bits = torch.from_numpy(words.view(np.int16))[:count].view(num_rows, width)
        kept = torch.empty((num_rows, width), dtype=dtype)
        return torch.ge(bits, math.floor(threshold) + int(round_up) - _LEVELS // 2, out=kept)
