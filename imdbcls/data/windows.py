"""Split documents that are longer than the encoder's input into overlapping windows (`data.truncation=windows`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """A rule that splits a long document into the fewest overlapping windows. They are equally long and evenly spaced.

    `overlap` is the minimum fraction of a full window that neighbouring windows share. A document that would need more
    than `max_windows` windows gets exactly `max_windows` full windows, evenly spaced from its first to its last token.
    If there are gaps between these windows, the tokens in the gaps are not read.

    The usual alternative is full windows and a shorter last window, which needs padding and contains little information
    if it has only a few words.
    """

    overlap: float
    max_windows: int

    def needed(self, lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Return the number of windows that are needed to read each document completely.

        `budget` is the size of a full window. `lengths` and `budget` exclude special tokens.
        """
        shared = self._shared(budget)
        return np.where(lengths > budget, -(-(lengths - shared) // (budget - shared)), 1)

    def plan(self, lengths: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of windows of each document and the length of these windows.

        `budget` is the size of a full window. All lengths and `budget` exclude special tokens. A document of at most
        `budget` tokens is a single window.
        """
        needed = self.needed(lengths, budget)
        sizes = -(-(lengths + (needed - 1) * self._shared(budget)) // needed)
        return np.minimum(needed, self.max_windows), np.where(needed > self.max_windows, budget, sizes)

    def _shared(self, budget: int) -> int:
        """Return the minimum number of tokens that neighbouring windows share: at most `budget - 1`."""
        return min(round(self.overlap * budget), budget - 1)


def window_starts(length: int, count: int, size: int) -> list[int]:
    """Return the index of the first token of each window. The last window ends at the last token of the document."""
    return [round(index * (length - size) / max(count - 1, 1)) for index in range(count)]
