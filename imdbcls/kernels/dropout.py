"""Draw dropout masks at a tenth of the cost of `bernoulli_`, reproducible with `torch.manual_seed`."""

import math

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16


class DropoutMasks:
    """A stream of dropout masks, seeded once per forward pass from PyTorch's default CPU generator.

    For each element, 16 random bits are compared with a threshold. A probability such as 0.1 is not a multiple of
    1/65536. So each mask draws one of the two nearest thresholds at random, such that an element is dropped with
    exactly the given probability. The bits come from NumPy's SFC64, whose raw stream NumPy promises not to change.
    """

    def __init__(self) -> None:
        seed = torch.randint(0, 2**63 - 1, (2,), device="cpu").tolist()
        self._bits = np.random.SFC64(seed)

    def draw(self, num_rows: int, width: int, probability: float, dtype: torch.dtype) -> Tensor:
        """Return a mask of shape (num_rows, width): 1 to keep an element, 0 to drop it. The mask is not scaled."""
        words = self._bits.random_raw(-(-num_rows * width // 4) + 1)
        threshold = probability * _LEVELS
        fraction = threshold - math.floor(threshold)
        round_up = int(words[-1]) < fraction * 2.0**64
        count = num_rows * width
        bits = torch.from_numpy(words.view(np.int16))[:count].view(num_rows, width)
        kept = torch.empty((num_rows, width), dtype=dtype)
        return torch.ge(bits, math.floor(threshold) + int(round_up) - _LEVELS // 2, out=kept)
