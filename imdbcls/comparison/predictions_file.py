"""Read a file of predictions, which any tool can write, as a study: one group per system, one run per seed.

A row is the prediction of one model for one document. The columns are `system`, `id`, `label`, `prediction`, and
optionally `seed`, `cluster` and `probability_<class>` for each class. The file may be untrusted: every cell is checked,
and errors name the line (CSV, TSV) or row (Parquet). `prediction_rows` reads the file.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imdbcls.comparison.group import Group
from imdbcls.comparison.prediction_rows import CLUSTER, MAX_ROWS, SEED, is_probability, opened
from imdbcls.comparison.run_files import Run, sanitize
from imdbcls.comparison.study import Study
from imdbcls.data.answers import PROBABILITY
from imdbcls.data.columns import listed
from imdbcls.data.documents import cell_text, label_name
from imdbcls.data.sources import sort_labels
from imdbcls.errors import UserError
from imdbcls.printable import printable_line
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.read_predictions import MAX_PROBABILITIES
from imdbcls.runs.untrusted import MAX_ID_CHARACTERS

MAX_SYSTEMS = 100  # limited, because every pair is tested
MAX_RUNS = 1_000  # systems times seeds
MAX_CLASSES = 1_000
MAX_NAME_CHARACTERS = 100  # limit for the name of a system or a class
MAX_TOTAL_CHARACTERS = 2**26  # limit for all distinct ids together, and for all distinct clusters together
MAX_NUMBERS = 50_000_000  # probabilities in the file
MAX_SEED_DIGITS = 18
SUM_TOLERANCE = 1e-3 + 1e-9  # probabilities with three decimals may sum to 0.999
SHAPE = "one row per document, system and seed"


def read_predictions_file(given: Path) -> Study:
    """Read the file and check it. Raise UserError if a check fails.

    The message names the file and, for an invalid row, its line (CSV, TSV) or row number (Parquet).
    """
    with opened(given) as found:
        assert found.columns is not None
        content = Content(str(given), found.unit, [name for name in found.columns if name])
        for number, row in found.rows:
            content.add(number, row)
    content.check()
    groups = content.groups()
    return Study(sanitize(given.stem), groups, content.label_names, tuple(content.notes()), sanitize(given.name))


@dataclass
class Names:
    """The distinct values of a column, in the order of first use, with limits on their number and size."""

    normalized: Callable[[object], str]
    max_names: int
    max_characters: int
    indices: dict[str, int] = field(default_factory=dict)
    _known: dict[object, int] = field(default_factory=dict)  # index of the value of each cell
    _num_characters: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def texts(self) -> list[str]:
        return list(self.indices)

    def index(self, cell: object, column: str) -> int:
        """Return the index of a cell's value. Raise ValueError for an invalid value.

        The caller adds the file and the row or column to the message.
        """
        index = self._known.get(cell)
        if index is None:
            index = self._known[cell] = self._new(cell, column)
        return index

    def _new(self, cell: object, column: str) -> int:
        text = self.normalized(cell)
        if text == "":
            raise ValueError(f"{column!r} has no value; every row must have one")
        if len(text) > self.max_characters:
            raise ValueError(f"{column!r} has {len(text):,} characters; at most {self.max_characters} are allowed")
        if printable_line(text) != text:
            raise ValueError(f"{column!r} is {text!a}, which contains a control character; remove it")
        if text not in self.indices:
            self._num_characters += len(text)
            if len(self) == self.max_names:
                raise ValueError(f"{column!r} has more than {self.max_names:,} different values; use fewer values")
            if self._num_characters > MAX_TOTAL_CHARACTERS:
                raise ValueError(
                    f"the distinct values of {column!r} have more than {MAX_TOTAL_CHARACTERS:,} characters in total; "
                    "use shorter values"
                )
        return self.indices.setdefault(text, len(self))


class Content:
    """The rows of a file as arrays, and the checks that need several rows."""

    def __init__(self, path: str, unit: str, columns: Sequence[str]) -> None:
        self.path, self.unit = path, unit
        self.has_seeds, self.has_clusters = SEED in columns, CLUSTER in columns
        self.systems = Names(cell_text, MAX_SYSTEMS, MAX_NAME_CHARACTERS)
        self.ids = Names(cell_text, MAX_ROWS, MAX_ID_CHARACTERS)
        self.clusters = Names(cell_text, MAX_ROWS, MAX_ID_CHARACTERS)
        self.classes = Names(label_name, MAX_CLASSES, MAX_NAME_CHARACTERS)
        self.runs: dict[tuple[int, int], int] = {}  # index of each (system, seed), in the order of first use
        self.probability_columns = [name for name in columns if is_probability(name)]
        for name in self.probability_columns:
            try:
                index = self.classes.index(name.removeprefix(PROBABILITY), "class")
            except ValueError as problem:
                raise UserError(f"{path}: column {name[:80]!r}: {problem}.") from None
            if index != self.probability_columns.index(name):
                raise UserError(f"{path}: column {name!r} names the same class as another column. Remove one of them.")
        # One entry per row, except `probabilities_RC`, which has one entry per row and class.
        self.numbers, self.run_R, self.id_R = array("q"), array("i"), array("i")
        self.label_R, self.predicted_R, self.cluster_R = array("i"), array("i"), array("i")
        self.probabilities_RC = array("f")
        self.num_below_largest = 0  # rows whose prediction is not the class with the largest probability

    def where(self, row: int) -> str:
        return f"{self.unit} {self.numbers[row]:,}"

    def add(self, number: int, row: Mapping[str, object]) -> None:
        try:
            self._add(number, row)
        except ValueError as problem:
            raise UserError(f"{self.path}, {self.unit} {number:,}: {problem}.") from None

    def _add(self, number: int, row: Mapping[str, object]) -> None:
        """Append a row. Raise ValueError if a cell is invalid or a limit is exceeded.

        The caller adds the file and the row to the message.
        """
        seed = seed_of(row[SEED]) if self.has_seeds else 0
        run = self.runs.setdefault((self.systems.index(row["system"], "system"), seed), len(self.runs))
        if run == MAX_RUNS:
            raise ValueError(f"the file has more than {MAX_RUNS:,} different pairs of system and seed; remove rows")
        label, predicted = (self.class_of(row, column) for column in ("label", "prediction"))
        if self.probability_columns:
            self.add_probabilities(row, predicted)
        self.numbers.append(number)
        self.run_R.append(run)
        self.id_R.append(self.ids.index(row["id"], "id"))
        self.label_R.append(label)
        self.predicted_R.append(predicted)
        if self.has_clusters:
            self.cluster_R.append(self.clusters.index(row[CLUSTER], CLUSTER))

    def class_of(self, row: Mapping[str, object], column: str) -> int:
        num_classes = len(self.classes)
        index = self.classes.index(row[column], column)
        if index == num_classes and self.probability_columns:
            name = label_name(row[column])
            raise ValueError(
                f"{column!r} is {name!r}, but the file has no column {PROBABILITY + name!r}; add this column, or "
                "remove all probability columns"
            )
        return index

    def add_probabilities(self, row: Mapping[str, object], predicted: int) -> None:
        probabilities = [probability_of(row[name], name) for name in self.probability_columns]
        total = sum(probabilities)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"the probabilities sum to {total:.6g} instead of 1")
        if len(self.probabilities_RC) + len(probabilities) > MAX_NUMBERS:
            raise ValueError(
                f"the file has more than {MAX_NUMBERS:,} probabilities; remove rows, or all probability columns"
            )
        self.probabilities_RC.extend(probabilities)
        self.num_below_largest += probabilities[predicted] < max(probabilities)

    def check(self) -> None:
        """Raise UserError if the rows contradict each other, or cannot be compared."""
        if not self.numbers:
            raise UserError(f"{self.path} has columns but no rows; it needs {SHAPE}.")
        num_ids, num_classes = len(self.ids), len(self.classes)
        self.check_unique()
        self.check_equal(self.label_R, "label", self.classes.texts)
        if self.has_clusters:
            self.check_equal(self.cluster_R, CLUSTER, self.clusters.texts)
        self.check_complete()
        if num_ids < 2:
            raise UserError(f"{self.path} has only one document; a comparison needs at least two.")
        if num_classes < 2:
            raise UserError(
                f"{self.path} has only one class, {self.classes.texts[0]!r}; a comparison needs at least two."
            )
        if num_ids * num_classes > MAX_PROBABILITIES:
            raise UserError(
                f"{self.path} has {num_ids:,} documents and {num_classes:,} classes. The number of documents times the "
                f"number of classes must be at most {MAX_PROBABILITIES:,}. Remove documents."
            )
        labels, predictions = set(self.label_R), set(self.predicted_R)
        if not labels & predictions:
            names = self.classes.texts
            raise UserError(
                f"{self.path}: no prediction is one of the labels. The labels are "
                f"{listed([names[i] for i in sorted(labels)])}; the predictions are "
                f"{listed([names[i] for i in sorted(predictions)])}. Use the same class names in both columns."
            )

    def check_unique(self) -> None:
        """Raise UserError for the first row that repeats a system, seed and id."""
        keys_R = np.array(self.run_R, dtype=np.int64) * len(self.ids) + np.array(self.id_R)
        _, firsts, inverse_R = np.unique(keys_R, return_index=True, return_inverse=True)
        repeated = np.flatnonzero(firsts[inverse_R] != np.arange(len(keys_R)))
        if len(repeated):
            row = int(repeated[0])
            first = int(firsts[inverse_R[row]])
            advice = "" if self.has_seeds else f" If the rows come from different seeds, add a column {SEED!r}."
            raise UserError(
                f"{self.path}, {self.where(row)}: {self.run_name(self.run_R[row])} and id "
                f"{self.ids.texts[self.id_R[row]]!r} already occur in {self.where(first)}; only {SHAPE} is allowed."
                f"{advice}"
            )

    def check_equal(self, value_R: array, column: str, names: Sequence[str]) -> None:
        """Raise UserError for the first row whose value differs from the value in an earlier row with the same id."""
        ids_R, values_R = np.array(self.id_R), np.array(value_R)
        _, firsts = np.unique(ids_R, return_index=True)
        different = np.flatnonzero(values_R[firsts[ids_R]] != values_R)
        if len(different):
            row = int(different[0])
            first = int(firsts[ids_R[row]])
            raise UserError(
                f"{self.path}, {self.where(row)}: the {column} of id {self.ids.texts[ids_R[row]]!r} is "
                f"{names[value_R[row]]!r}, but it is {names[value_R[first]]!r} in {self.where(first)}; a document must "
                f"have one {column}."
            )

    def check_complete(self) -> None:
        """Raise UserError for the first run that does not predict all documents."""
        counts = np.bincount(np.array(self.run_R), minlength=len(self.runs))
        incomplete = np.flatnonzero(counts < len(self.ids))
        if len(incomplete):
            run = int(incomplete[0])
            predicted = set(np.array(self.id_R)[np.array(self.run_R) == run].tolist())
            missing = next(index for index in range(len(self.ids)) if index not in predicted)
            row = self.id_R.index(missing)
            raise UserError(
                f"{self.path}: {self.run_name(run)} lacks {len(self.ids) - len(predicted):,} of {len(self.ids):,} "
                f"documents, for example {self.ids.texts[missing]!r}, which is in {self.where(row)}. Every system must "
                "predict the same documents with every seed."
            )

    def run_name(self, run: int) -> str:
        system, seed = list(self.runs)[run]
        name = self.systems.texts[system]
        return f"system {name!r}, seed {seed}," if self.has_seeds else f"system {name!r}"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes: in numeric order if all are whole numbers, else in the order of their names."""
        return sort_labels(self.classes.indices)

    def groups(self) -> tuple[Group, ...]:
        """Return a group per system, in the order of the file. Documents are sorted by id, and runs by seed."""
        num_ids, names = len(self.ids), self.label_names
        ids_N = np.array(self.ids.texts, dtype=object)
        order_N = np.argsort(ids_N, kind="stable")
        rank_N = np.argsort(order_N)
        # rows_SN[s] has the rows of run s, in the order of the ids.
        keys_R = np.array(self.run_R, dtype=np.int64) * num_ids + rank_N[np.array(self.id_R)]
        rows_SN = np.argsort(keys_R).reshape(len(self.runs), num_ids)
        class_of = np.array([names.index(name) for name in self.classes.texts])
        labels_N = class_of[np.array(self.label_R)[rows_SN[0]]]
        clusters_N = None
        if self.has_clusters:
            clusters_N = np.array(self.clusters.texts, dtype=object)[np.array(self.cluster_R)[rows_SN[0]]]
        probabilities_RC: NDArray[np.float32] | None = None
        if self.probability_columns:
            written_RC = np.frombuffer(self.probabilities_RC, dtype=np.float32).reshape(-1, len(names))
            probabilities_RC = written_RC[:, np.argsort(class_of)]
        predicted_R = class_of[np.array(self.predicted_R)]
        systems, sorted_ids_N = self.systems.texts, ids_N[order_N]
        runs: dict[str, list[Run]] = {}
        for (system, seed), rows in zip(self.runs, rows_SN, strict=True):
            name = systems[system]
            predictions = Predictions(
                ids=sorted_ids_N,
                labels=labels_N,
                predicted=predicted_R[rows],
                probabilities=None if probabilities_RC is None else probabilities_RC[rows],
                tokens=None,
                clusters=clusters_N,
                label_names=names,
            )
            result = {"seed": seed, "head": name, "group_hash": name}
            run = Run(f"{name}-s{seed}" if self.has_seeds else name, result, {}, [], predictions)
            runs.setdefault(name, []).append(run)
        return tuple(
            Group(name, name, "", tuple(sorted(found, key=lambda run: run.seed))) for name, found in runs.items()
        )

    def notes(self) -> Iterator[str]:
        """Yield sentences on unusual properties of the file."""
        if self.num_below_largest:
            yield (
                f"In {self.num_below_largest:,} of {len(self.numbers):,} rows, the prediction is not the class with "
                "the highest probability. Accuracy and F1 use the prediction; the other metrics use the probabilities."
            )


def seed_of(cell: object) -> int:
    """Return the seed in a cell. Raise ValueError if the cell is not a seed.

    The caller adds the file and the row to the message.
    """
    text = label_name(cell)
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_SEED_DIGITS):
        found = f"is {text[:40]!r}" if text else "has no value"
        raise ValueError(
            f"{SEED!r} {found}; it must be a whole number, 0 or larger, of at most {MAX_SEED_DIGITS} digits"
        )
    return int(text)


def probability_of(cell: object, column: str) -> float:
    """Return the probability in a cell. Raise ValueError for an invalid cell.

    The caller adds the file and the row to the message.
    """
    try:
        value = float(cell) if isinstance(cell, str | float | int) else float("nan")
    except (ValueError, OverflowError):
        value = float("nan")
    if not 0 <= value <= 1:
        found = "has no value" if cell is None or not str(cell).strip() else f"is {str(cell)[:40]!r}"
        raise ValueError(f"{column!r} {found}; it must be a number from 0 to 1, such as 0.25")
    return value
