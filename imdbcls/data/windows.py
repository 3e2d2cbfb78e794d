"""Cuts documents longer than the encoder takes into overlapping windows: `data.truncation=windows`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """How a long document is covered: with as few windows as keep the overlap, all of one length, evenly spaced.

    `overlap` is the fraction of a full window that it shares with the next at least. A document that would need more
    than `max_windows` gets that many full ones, evenly spaced from its first token to its last, with gaps.

    Windows of one length per document, because the usual alternative, full ones and a shorter last, pads that one, and
    a last window of few words has little to say.
    """

    overlap: float
    max_windows: int

    def needed(self, lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """How many windows cover each document; `lengths` and `budget`, of a window, are without special tokens."""
        shared = self._shared(budget)
        return np.where(lengths > budget, -(-(lengths - shared) // (budget - shared)), 1)

    def plan(self, lengths: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many windows each document gets, and their length; all lengths are without special tokens.

        A document of at most `budget` tokens is its own only window.
        """
        needed = self.needed(lengths, budget)
        sizes = -(-(lengths + (needed - 1) * self._shared(budget)) // needed)
        return np.minimum(needed, self.max_windows), np.where(needed > self.max_windows, budget, sizes)

    def _shared(self, budget: int) -> int:
        """Tokens that neighbours have in common at least; a window must also bring something new."""
        return min(round(self.overlap * budget), budget - 1)


def window_starts(length: int, count: int, size: int) -> list[int]:
    """Where the windows of a document of `length` tokens begin: the first at its start, the last ends at its end."""
    return [round(place * (length - size) / max(count - 1, 1)) for place in range(count)]
