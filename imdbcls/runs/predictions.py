"""A model's predictions for a set of documents, and the writer of the Parquet file that stores them.

The reader is in `read_predictions`.

Shape suffixes: N documents, C classes.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imdbcls.printable import printable_line
from imdbcls.runs.format_version import FORMAT_VERSION, PREDICTIONS
from imdbcls.runtime.atomic import replacing

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Predictions as columns of equal length. The arrays are read-only.

    Text columns have dtype object and contain Python strings. A numpy string array would drop trailing NULs and pad
    every string to the length of the longest string.
    """

    ids: NDArray[np.object_]  # (N,)
    labels: NDArray[np.int64] | None  # (N,), the true classes; None: unknown
    predicted: NDArray[np.int64]  # (N,), the predicted classes
    probabilities: NDArray[np.floating] | None  # (N, C), each row sums to one; None: unknown
    # (N,), number of tokens of each document before truncation, including special tokens; None: unknown
    tokens: NDArray[np.int64] | None
    clusters: NDArray[np.object_] | None  # (N,), the cluster of each document, such as its film; None: unknown
    label_names: tuple[str, ...]  # (C,)
    # (N,), the part of the data to which each document belongs, such as `ironic`; None: the data has no parts
    parts: NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            if isinstance(column, np.ndarray):
                assert len(column) == len(self.ids), f"{field.name} has {len(column)} rows, ids has {len(self.ids)}"
                view = column.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return printable_line(f"Predictions({len(self):,} documents, classes {', '.join(self.label_names)})")

    @property
    def names(self) -> list[str]:
        """The name of each document's predicted class."""
        return [self.label_names[label] for label in self.predicted]

    @property
    def true_labels(self) -> NDArray[np.int64]:
        """Return `labels`. Raise ValueError if they are unknown."""
        if self.labels is None:
            raise ValueError("the true labels of these documents are unknown")
        return self.labels

    @property
    def known_probabilities(self) -> NDArray[np.floating]:
        """Return `probabilities`. Raise ValueError if they are unknown."""
        if self.probabilities is None:
            raise ValueError("the probabilities of these predictions are unknown")
        return self.probabilities

    @property
    def correct(self) -> NDArray[np.bool_]:
        """A mask of the correctly classified documents, shape (N,). Raise ValueError if the labels are unknown."""
        return self.predicted == self.true_labels

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the predictions as a data frame with one row per document.

        The columns are `id`, `label` and `prediction` (names of classes), one column `probability_<class>` per class,
        `tokens`, `cluster` and `part`. Columns with unknown values are left out.
        """
        import pandas

        columns: dict[str, Any] = {"id": self.ids}
        if self.labels is not None:
            columns["label"] = [self.label_names[label] for label in self.labels]
        columns["prediction"] = self.names
        if self.probabilities is not None:
            columns |= {f"probability_{name}": self.probabilities[:, i] for i, name in enumerate(self.label_names)}
        others = {"tokens": self.tokens, "cluster": self.clusters, "part": self.parts}
        return pandas.DataFrame(columns | {name: column for name, column in others.items() if column is not None})

    def take(self, rows: NDArray[np.int64]) -> "Predictions":
        """Return the predictions at the indices `rows`, in the order of `rows`."""
        return replace(
            self,
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            predicted=self.predicted[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            tokens=None if self.tokens is None else self.tokens[rows],
            clusters=None if self.clusters is None else self.clusters[rows],
            parts=None if self.parts is None else self.parts[rows],
        )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a Parquet file with one row per document, atomically.

    The columns are `id`, `label`, `prediction`, `probabilities` (a list with one number per class), `tokens`, `cluster`
    and `part`. The last two are written only if `predictions` has clusters or parts. All other fields of `predictions`
    must be set: None is not allowed. The file metadata contains `format_version` and `label_names` (a JSON list), so
    that the file can be read without the run folder.
    """
    import pyarrow
    from pyarrow import parquet

    probabilities = pyarrow.array(predictions.known_probabilities.tolist(), pyarrow.list_(pyarrow.float64()))
    columns: dict[str, Any] = {
        "id": pyarrow.array(predictions.ids, pyarrow.string()),
        "label": pyarrow.array(predictions.true_labels, pyarrow.int64()),
        "prediction": pyarrow.array(predictions.predicted, pyarrow.int64()),
        "probabilities": probabilities,
        "tokens": pyarrow.array(predictions.tokens, pyarrow.int64()),
    }
    if predictions.clusters is not None:
        columns["cluster"] = pyarrow.array(predictions.clusters, pyarrow.string())
    if predictions.parts is not None:
        columns["part"] = pyarrow.array(predictions.parts, pyarrow.string())
    metadata = {FORMAT_VERSION: str(PREDICTIONS), "label_names": json.dumps(list(predictions.label_names))}
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns, metadata=metadata), temporary)
