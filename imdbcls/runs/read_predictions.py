"""Read the predictions of an untrusted run: check the file before unpacking it, then read it in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imdbcls.errors import UserError
from imdbcls.runs.parquet_pages import columns_of, require_small_footer
from imdbcls.runs.untrusted import MAX_ID_CHARACTERS, require_plain

MAX_PREDICTIONS_BYTES = 2**30
MAX_DOCUMENTS = 2_000_000
MAX_CLASSES = 1_000
MAX_PROBABILITIES = 25_000_000  # 25,000 documents of 1,000 classes
MAX_PAGE_BYTES = 2**26  # writers make pages of about 1 MB
MAX_COLUMN_BYTES = 2**28
MAX_ID_TOTAL = 2**26  # characters of all ids, at four bytes each
MAX_BATCH_ROWS = 2**16
MAX_BATCH_VALUES = 2**20
COLUMNS = ("id", "label", "prediction", "probabilities", "tokens")
NOT_THE_SAME = "its probabilities do not have the same number of classes (two or more) in every row"


class BadRun(UserError):
    """A run that cannot be compared; the message is one sentence for the user."""


@dataclass(frozen=True)
class Predictions:
    """One run's predictions on the test split, sorted by document id.

    `clusters` numbers the groups of documents that belong together (the data's group column); None: not known.
    """

    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities_NC: np.ndarray
    tokens: np.ndarray
    clusters: np.ndarray | None = None


def read_answers(path: Path, dtype: type[np.floating]) -> Predictions:
    """Read a split's predictions in the file's order; ids are unique and have at most 200 characters.

    The file is checked before anything in it is decompressed, and then read in batches: a small file may expand to
    gigabytes, in one page, one text or one row. Raises BadRun.
    """
    require_plain(path, MAX_PREDICTIONS_BYTES)
    try:
        require_small_footer(path)
        names = check_columns(pq.read_schema(path))
        file = pq.ParquetFile(
            path, read_dictionary=[name for name in ("id", "group") if name in names], pre_buffer=False
        )
        num_classes = check_size(path, file, names)
        num_rows = file.metadata.num_rows
        numbers = {name: np.empty(num_rows, dtype=np.int64) for name in ("label", "prediction", "tokens")}
        probabilities_NC = np.empty((num_rows, num_classes), dtype=dtype)
        ids: list[np.ndarray] = []
        clusters: Clusters | None = Clusters() if "group" in names else None
        start = 0
        for batch in file.iter_batches(batch_size(num_classes), columns=names, use_threads=False):
            rows = slice(start, start + batch.num_rows)
            ids.append(id_texts(batch["id"], num_rows))
            for name, column in numbers.items():
                column[rows] = whole_numbers(batch[name])
            probabilities_NC[rows] = probability_matrix(batch["probabilities"], num_classes)
            if clusters is not None:
                clusters.add(batch["group"])
            start += batch.num_rows
        if start != num_rows:
            raise ValueError(f"{start} rows instead of {num_rows}")
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException, MemoryError) as error:
        if isinstance(error, BadRun):
            raise
        raise BadRun("its predictions are damaged or lack a column") from None
    clusters_N = None if clusters is None else clusters.numbers()
    answers = Predictions(
        np.concatenate(ids), numbers["label"], numbers["prediction"], probabilities_NC, numbers["tokens"]
    )
    check_answers(answers.ids, answers.labels, answers.predictions, probabilities_NC)
    return replace(answers, clusters=clusters_N)


def check_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns to read. Raises KeyError for a missing one, ValueError for an unexpected type."""
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two columns of one name")
    names = [*COLUMNS, *(["group"] if "group" in schema.names else [])]
    for name in names:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        fits = {
            "id": is_text or pa.types.is_integer(kind),
            "group": is_text or pa.types.is_integer(kind),
            "probabilities": is_list and pa.types.is_floating(kind.value_type),
        }
        if not fits.get(name, pa.types.is_integer(kind)):
            raise ValueError(f"{name} is {kind}")
    return names


def check_size(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> int:
    """Return the number of classes. Raises BadRun if the pages of the file exceed a limit."""
    num_rows = file.metadata.num_rows
    if num_rows == 0:
        raise BadRun("its predictions are empty")
    if num_rows > MAX_DOCUMENTS:
        raise BadRun(f"its predictions have {num_rows:,} rows; at most {MAX_DOCUMENTS:,} are read")
    columns = columns_of(path, file.metadata, names)
    (probabilities,) = (column for column in columns.values() if column.path.startswith("probabilities."))
    for column in columns.values():
        if column.num_values > (MAX_PROBABILITIES if column is probabilities else num_rows):
            raise BadRun(f"its predictions hold more values than can be compared ({column.num_values:,})")
        if column.largest_page > MAX_PAGE_BYTES or column.num_bytes > MAX_COLUMN_BYTES:
            raise BadRun(f"its predictions expand to {column.num_bytes:,} bytes in {column.path!r}: too much to read")
        if not column.is_bounded:
            raise BadRun(f"its predictions have an encoding in {column.path!r} that can expand without bound")
    num_classes, rest = divmod(probabilities.num_values, num_rows)
    if rest or not 2 <= num_classes <= MAX_CLASSES:
        raise BadRun(NOT_THE_SAME)
    return num_classes


def batch_size(num_classes: int) -> int:
    """Return the rows to read at a time: some megabytes of probabilities."""
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_VALUES // num_classes))


def texts_of(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's distinct texts and each row's index among them. Raises ValueError for a missing value."""
    if column.null_count:
        raise ValueError("a missing value")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    # Of a row group's dictionary, only what this batch uses is turned into Python's texts.
    used, places = np.unique(encoded.indices.to_numpy(zero_copy_only=False), return_inverse=True)
    texts = encoded.dictionary.take(pa.array(used)).to_pylist()
    return np.array([str(text) for text in texts], dtype=object), places


def id_texts(ids: pa.Array, num_rows: int) -> np.ndarray:
    """Return a batch's ids as a numpy array of strings, whatever their type in the file."""
    if ids.null_count:
        raise BadRun("its predictions have rows without an id")
    texts, places = texts_of(ids)
    longest = max((len(text) for text in texts), default=0)
    if longest > MAX_ID_CHARACTERS:
        raise BadRun(f"its predictions have an id of more than {MAX_ID_CHARACTERS} characters")
    if longest * num_rows > MAX_ID_TOTAL:
        raise BadRun(f"its predictions have {num_rows:,} rows and ids of {longest} characters: too much to compare")
    return texts.astype(str)[places]


class Clusters:
    """Number each row's group in the order of the names, batch by batch, so that a name is stored once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows: list[np.ndarray] = []
        self._has_gap = False

    def add(self, groups: pa.Array) -> None:
        if groups.null_count or self._has_gap:
            self._has_gap = True
            return
        names, places = texts_of(groups)
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        self._rows.append(np.array(numbers, dtype=np.int64)[places])

    def numbers(self) -> np.ndarray | None:
        """Return each row's number, or None if any row has no group."""
        if self._has_gap:
            return None
        rank = np.empty(len(self._numbers), dtype=np.int64)
        rank[[self._numbers[name] for name in sorted(self._numbers)]] = np.arange(len(self._numbers))
        return rank[np.concatenate(self._rows)]


def whole_numbers(column: pa.Array) -> np.ndarray:
    """Convert a column of integers. Raises ValueError for missing values and other types, instead of rounding."""
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"{column.type} with {column.null_count} missing values")
    return column.to_numpy().astype(np.int64)


def probability_matrix(lists: pa.Array, num_classes: int) -> np.ndarray:
    """Convert a batch's lists, which must all have the same length, to a matrix."""
    values = lists.flatten()
    if values.null_count or lists.null_count or not np.all(lists.value_lengths().to_numpy() == num_classes):
        raise BadRun(NOT_THE_SAME)
    return values.to_numpy().reshape(len(lists), num_classes)


def check_answers(ids: np.ndarray, labels: np.ndarray, predictions: np.ndarray, probabilities_NC: np.ndarray) -> None:
    num_classes = probabilities_NC.shape[1]
    if np.unique(ids).size != ids.size:
        raise BadRun("its predictions name a document twice")
    if min(labels.min(), predictions.min()) < 0 or max(labels.max(), predictions.max()) >= num_classes:
        raise BadRun(f"its labels or predictions are not classes 0 to {num_classes - 1}")
    if not np.all(np.abs(probabilities_NC.sum(axis=1) - 1) < 0.02) or probabilities_NC.min() < 0:
        raise BadRun("its probabilities are not between 0 and 1 with a sum of 1 in every row")
