"""The columns that the data package passes around: one split, what a reader returns, what a run trains on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ID_CHARACTERS = 200  # of an id: so a small file of predictions cannot unfold into gigabytes


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold half of a pair of surrogates, an emoji that was cut in two."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Documents:
    """One split, as columns of equal length.

    `ids` name the documents in predictions and are unique within the split. `texts` are kept exactly as
    read: IMDB's `<br />` tags stay, because every published figure was measured with them and the encoder
    learns to ignore them. `labels` are class indices, int64, shape (num_documents,). `groups` are keys of
    documents that must stay on one side of a split (a film's title id), or None where the data has none.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: NDArray[np.int64]
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.texts), len(self.labels)}
        if self.groups is not None:
            lengths.add(len(self.groups))
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Documents":
        """Return the documents at `rows`, in that order."""
        return Documents(
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
        )


@dataclass(frozen=True)
class Source:
    """What a reader found: whole splits, before anything is carved out or limited.

    `test` is None where the data has none, `validation` is None unless the user gave one. `label_names[i]`
    is the name of class i. `notes` are sentences for the user.
    """

    train: Documents
    test: Documents | None
    validation: Documents | None
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The three splits of a run, each in the order of its ids.

    `split_hash` covers the ids, labels and texts of the three splits; two runs with the same hash trained
    and were scored on the same documents. `notes` are sentences for the user, to be said once.
    """

    train: Documents
    validation: Documents
    test: Documents
    label_names: tuple[str, ...]
    split_hash: str
    notes: tuple[str, ...]
