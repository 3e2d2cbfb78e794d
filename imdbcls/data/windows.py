"""Split documents that are longer than the encoder's input into overlapping windows (`data.truncation=windows`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """A rule that covers a long document with the fewest windows that keep the overlap, evenly spaced.

    `overlap` is the minimum fraction of a full window that it shares with the next. A document that would need more
    than `max_windows` gets that many full windows, evenly spaced from its first to its last token, with gaps.

    All windows of a document have the same length. The usual alternative is full windows with a shorter last one, which
    needs padding and contains little information if it has few words.
    """

    overlap: float
    max_windows: int

    def needed(self, lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Return the number of windows that cover each document completely.

        `lengths` and `budget`, the size of a full window, exclude special tokens.
        """
        shared = self._shared(budget)
        return np.where(lengths > budget, -(-(lengths - shared) // (budget - shared)), 1)

    def plan(self, lengths: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of windows of each document, and their length; all lengths exclude special tokens.

        A document of at most `budget` tokens is a single window.
        """
        needed = self.needed(lengths, budget)
        sizes = -(-(lengths + (needed - 1) * self._shared(budget)) // needed)
        return np.minimum(needed, self.max_windows), np.where(needed > self.max_windows, budget, sizes)

    def _shared(self, budget: int) -> int:
        """Return the minimum number of tokens that neighbouring windows share, less than a complete window."""
        return min(round(self.overlap * budget), budget - 1)


def window_starts(length: int, count: int, size: int) -> list[int]:
    """Return the starts of a document's windows; the first begins at its start, and the last ends at its end."""
    return [round(place * (length - size) / max(count - 1, 1)) for place in range(count)]
