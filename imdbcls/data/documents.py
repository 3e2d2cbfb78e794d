"""The containers of the data package: one split, the result of a reader, and the three splits of a run."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.text_column import take

_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0*")  # pandas writes 1 as 1.0 if the column has a missing value
_SPELLINGS = {"-0": "0", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def is_whole(value: float | Decimal) -> bool:
    """Return whether a number is whole; False for NaN and infinity."""
    return math.isfinite(value) and value == int(value)


def cell_text(value: object) -> str:
    """Return a cell of an id or cluster column as a string without surrounding spaces; "" for a missing value.

    None, NaN, empty strings and the string "nan" are missing values. A whole float (1.0) becomes an integer ("1").
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return "" if math.isnan(value) else str(int(value)) if is_whole(value) else str(value)
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def label_name(value: object) -> str:
    """Return a label as a string, so that equal labels have the same name in every file format; "" if it is missing.

    Whole numbers lose their fraction (`1.0` and `1` become "1"), and booleans become lower case (`True`, `TRUE` and
    `true` become "true"). Other labels only lose surrounding spaces: `01`, `1.5`, `Good`, `True story`.
    """
    text = cell_text(value)
    match = _WHOLE_FLOAT.fullmatch(text)
    text = match[1] if match else text
    return _SPELLINGS.get(text, text)


@dataclass(frozen=True)
class Documents:
    """The documents of one split, as columns of equal length.

    `ids` identify the documents in predictions and are unique within the split. `texts` are exactly as read: IMDB's
    `<br />` tags stay, because published results were measured with them. The texts, ids and clusters of a large
    dataset are in memory-mapped files. `labels` are class indices (int64, shape (num_documents,)). `clusters` has a
    key for each document, such as the title id of a film. Documents with the same key stay in the same split.
    `clusters` is None if the data has no such keys. `parts` names the part of the data to which each document belongs,
    such as `ironic`; the accuracy of each part is reported. `parts` is None if the data names no parts. If the
    documents are pairs of texts, such as a premise and a hypothesis, `pairs` has the second texts. For single texts,
    `pairs` is None.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: NDArray[np.int64]
    clusters: Sequence[str] | None = None
    parts: Sequence[str] | None = None
    pairs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.texts), len(self.labels)}
        lengths |= {len(column) for column in (self.clusters, self.parts, self.pairs) if column is not None}
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Documents":
        """Return the documents at `rows`, in that order."""
        return Documents(
            ids=take(self.ids, rows),
            texts=take(self.texts, rows),
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            clusters=None if self.clusters is None else take(self.clusters, rows),
            parts=None if self.parts is None else [self.parts[row] for row in rows],
            pairs=None if self.pairs is None else take(self.pairs, rows),
        )

    def shown(self, row: int) -> str:
        """Return the text of a document for a reader. The two texts of a pair are separated by a line end."""
        return self.texts[row] if self.pairs is None else f"{self.texts[row]}\n{self.pairs[row]}"


@dataclass(frozen=True)
class Source:
    """The splits that a reader returns, before any split is carved out or limited.

    `test` is None if the data has no test split. `validation` is None if the user gave none. `label_names[i]` is the
    name of class i. `notes` are messages to log.
    """

    train: Documents
    test: Documents | None
    validation: Documents | None
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The three splits of a run, each in the order of its ids.

    `split_hash` covers the ids, labels and texts of all splits, so two runs with the same hash were trained and
    evaluated on the same documents. `held_out_hash` covers the texts of validation and test before the limits are
    applied. `notes` are messages to log once.
    """

    train: Documents
    validation: Documents
    test: Documents
    label_names: tuple[str, ...]
    split_hash: str
    notes: tuple[str, ...]
    held_out_hash: str | None = None

    @property
    def splits(self) -> dict[str, Documents]:
        """The documents of each split, keyed by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
