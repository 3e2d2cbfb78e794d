"""The columns that the data package passes around: one split, what a reader returns, what a run trains on."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0*")  # 1.0, as pandas writes 1 when a row of the column is missing
_SPELLINGS = {"-0": "0", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def is_whole(value: float | Decimal) -> bool:
    """Return whether a number has no fraction; False for NaN and infinity."""
    return math.isfinite(value) and value == int(value)


def cell_text(value: object) -> str:
    """Return a cell of an id or cluster column as text, without surrounding spaces; "" for a missing value.

    Missing are None, NaN, and a text that is empty or reads "nan". A typed whole number (1.0) has no fraction (1).
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return "" if math.isnan(value) else str(int(value)) if is_whole(value) else str(value)
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def label_name(value: object) -> str:
    """Return a label as text; equal labels get the same name in every file format. "" for a missing value.

    A whole number has no fraction (`1.0` and `1` are "1") and a boolean is lower case (`True`, `TRUE` and `true` are
    "true"). All other text stays as it is, without surrounding spaces: `01`, `1.5`, `Good`, `True story`.
    """
    text = cell_text(value)
    whole = _WHOLE_FLOAT.fullmatch(text)
    text = whole[1] if whole else text
    return _SPELLINGS.get(text, text)


@dataclass(frozen=True)
class Documents:
    """One split, as columns of equal length.

    `ids` name the documents in predictions and are unique within the split. `texts` are kept exactly as read: IMDB's
    `<br />` tags stay, because every published figure was measured with them. `labels` are class indices, int64, shape
    (num_documents,). `clusters` are keys of documents that belong together and stay on one side of a split (a film's
    title id); None if the data has none.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: NDArray[np.int64]
    clusters: Sequence[str] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.texts), len(self.labels)}
        if self.clusters is not None:
            lengths.add(len(self.clusters))
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Documents":
        """Return the documents at `rows`, in that order."""
        return Documents(
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            clusters=None if self.clusters is None else [self.clusters[row] for row in rows],
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

    @property
    def splits(self) -> dict[str, Documents]:
        """The documents by the name of their split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
