"""Read predictions from an untrusted Parquet file: check its sizes before decompressing, then read it in batches."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imdbcls.errors import UserError
from imdbcls.runs.format_version import FORMAT_VERSION, PREDICTIONS, OtherVersionError, require_version
from imdbcls.runs.parquet_pages import columns_of, require_small_footer
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.record import problem_of_labels
from imdbcls.runs.untrusted import MAX_ID_CHARACTERS, require_regular_file

MAX_PREDICTIONS_BYTES = 2**30
MAX_DOCUMENTS = 2_000_000
MAX_CLASSES = 1_000
MAX_PROBABILITIES = 25_000_000  # for example, 25,000 documents with 1,000 classes
MAX_PAGE_BYTES = 2**26  # writers make pages of about 1 MB
MAX_COLUMN_BYTES = 2**28
MAX_ID_TOTAL = 2**26  # number of ids times the length of the longest id
MAX_NAME_TOTAL = 2**26  # characters of all distinct cluster names, or of all names of parts
MAX_BATCH_ROWS = 2**16
MAX_BATCH_VALUES = 2**20
COLUMNS = ("id", "label", "prediction", "probabilities", "tokens")
CLUSTER, PART = "cluster", "part"
DIFFERENT_CLASSES = (
    f"its probabilities must contain one number per class in every row, for 2 to {MAX_CLASSES:,} classes"
)


class BadPredictionsError(UserError):
    """An unusable predictions file. The caller puts the run's path before the message, which starts with "its"."""


def read_predictions(path: Path, dtype: type[np.floating] = np.float64) -> Predictions:
    """Return the predictions in a file, in the order of its rows. Ids are unique and have at most 200 characters.

    `dtype` is the type of the probabilities. If the file has no valid class names, the names are "0", "1", … A file
    without a `format_version` is accepted, because other tools can write the same columns.

    A small file may expand to gigabytes in one page, one string or one row. So the file is checked before anything is
    decompressed, and is then read in batches. Raise UserError if the file is missing, too large or not a regular
    file, and BadPredictionsError if its content cannot be used.
    """
    require_regular_file(path, MAX_PREDICTIONS_BYTES)
    try:
        require_small_footer(path)
        schema = pq.read_schema(path)
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        check_version(metadata)
        names = check_columns(schema)
        string_columns = [name for name in ("id", CLUSTER, PART) if name in names]
        file = pq.ParquetFile(path, read_dictionary=string_columns, pre_buffer=False)
        num_classes = check_size(path, file, names)
        num_rows = file.metadata.num_rows
        numbers = {name: np.empty(num_rows, dtype=np.int64) for name in ("label", "prediction", "tokens")}
        probabilities_NC = np.empty((num_rows, num_classes), dtype=dtype)
        ids = np.empty(num_rows, dtype=object)
        optional = {name: Names(num_rows, name) for name in (CLUSTER, PART) if name in names}
        start = 0
        for batch in file.iter_batches(batch_size(num_classes), columns=names, use_threads=False):
            rows = slice(start, start + batch.num_rows)
            ids[rows] = id_texts(batch["id"], num_rows)
            for name, column in numbers.items():
                column[rows] = whole_numbers(batch[name])
            probabilities_NC[rows] = probability_matrix(batch["probabilities"], num_classes)
            for name, found in optional.items():
                found.read(rows, batch[name])
            start += batch.num_rows
        if start != num_rows:
            raise ValueError(f"{start} rows instead of {num_rows}")
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException, MemoryError) as error:
        if isinstance(error, BadPredictionsError):
            raise
        raise BadPredictionsError(
            "its predictions are damaged or lack a column of the expected type: restore the file, or write it again"
        ) from None
    check_values(ids, numbers["label"], numbers["prediction"], probabilities_NC)
    return Predictions(
        ids=ids,
        labels=numbers["label"],
        predicted=numbers["prediction"],
        probabilities=probabilities_NC,
        tokens=numbers["tokens"],
        clusters=optional[CLUSTER].column() if CLUSTER in optional else None,
        label_names=label_names(metadata, num_classes),
        parts=optional[PART].column() if PART in optional else None,
    )


def max_documents(num_classes: int, longest_id: int) -> int:
    """Return the largest number of documents whose predictions `read_predictions` reads.

    `longest_id` is the number of characters in the longest id.
    """
    return min(MAX_DOCUMENTS, MAX_PROBABILITIES // num_classes, MAX_ID_TOTAL // max(1, longest_id))


def check_version(metadata: Mapping[str, str]) -> None:
    """Raise BadPredictionsError if the file has a format version that this version of imdbcls cannot read."""
    if FORMAT_VERSION not in metadata:
        return
    version = metadata[FORMAT_VERSION]
    try:
        require_version({FORMAT_VERSION: int(version) if version.isdecimal() else version}, PREDICTIONS)
    except OtherVersionError as error:
        raise BadPredictionsError(f"its predictions file {error}") from error


def label_names(metadata: Mapping[str, str], num_classes: int) -> tuple[str, ...]:
    """Return the class names in a file's metadata, or "0", "1", … if they are missing or invalid."""
    try:
        names = json.loads(metadata.get("label_names", "null"))
    except (ValueError, RecursionError):
        names = None
    if isinstance(names, list) and len(names) == num_classes and problem_of_labels(names) is None:
        return tuple(names)
    return tuple(str(label) for label in range(num_classes))


def check_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns to read.

    Raise KeyError for a missing column, ValueError for a repeated column or an unexpected type, and
    BadPredictionsError for a column with an outdated name.
    """
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two columns with the same name")
    if "group" in schema.names and CLUSTER not in schema.names:
        raise BadPredictionsError(
            "its predictions have a column 'group', which is now called 'cluster': rename the column"
        )
    names = [*COLUMNS, *(name for name in (CLUSTER, PART) if name in schema.names)]
    for name in names:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        matches_type = {
            "id": is_text or pa.types.is_integer(kind),
            CLUSTER: is_text or pa.types.is_integer(kind),
            PART: is_text,
            "probabilities": is_list and pa.types.is_floating(kind.value_type),
        }
        if not matches_type.get(name, pa.types.is_integer(kind)):
            raise ValueError(f"{name} is {kind}")
    return names


def check_size(path: Path, file: pq.ParquetFile, names: Sequence[str]) -> int:
    """Return the number of classes, without decompressing the file.

    Raise BadPredictionsError if the file is empty, could need too much memory, or has an invalid number of classes.
    """
    num_rows = file.metadata.num_rows
    if num_rows == 0:
        raise BadPredictionsError("its predictions are empty: write at least one row")
    if num_rows > MAX_DOCUMENTS:
        raise BadPredictionsError(
            f"its predictions have {num_rows:,} rows; at most {MAX_DOCUMENTS:,} are allowed: write fewer rows"
        )
    columns = columns_of(path, file.metadata, names)
    (probabilities,) = (column for column in columns.values() if column.path.startswith("probabilities."))
    for column in columns.values():
        limit = MAX_PROBABILITIES if column is probabilities else num_rows
        if column.num_values > limit:
            raise BadPredictionsError(
                f"its predictions contain too many values ({column.num_values:,}) in column {column.path!r}; at most "
                f"{limit:,} are allowed: write the file again with fewer values"
            )
        if column.largest_page > MAX_PAGE_BYTES or column.num_bytes > MAX_COLUMN_BYTES:
            raise BadPredictionsError(
                f"its predictions expand to {column.num_bytes:,} bytes in column {column.path!r} "
                f"({column.largest_page:,} bytes in the largest page), which is too much to read: write the file again "
                "with shorter values and smaller pages"
            )
        if not column.is_bounded:
            raise BadPredictionsError(
                f"its predictions use an encoding in column {column.path!r} that can expand to any size: write the "
                "file again with plain or dictionary encoding, as pandas does by default"
            )
    num_classes, rest = divmod(probabilities.num_values, num_rows)
    if rest or not 2 <= num_classes <= MAX_CLASSES:
        raise BadPredictionsError(DIFFERENT_CLASSES)
    return num_classes


def batch_size(num_classes: int) -> int:
    """Return the number of rows per batch, chosen so that a batch has at most a few megabytes of probabilities."""
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_VALUES // num_classes))


def texts_of(column: pa.Array) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return the distinct values of a batch as strings, shape (S,), and for each row the index of its value.

    Raise ValueError if a value is missing.
    """
    if column.null_count:
        raise ValueError("a missing value")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    # Convert only the dictionary entries that this batch uses: the dictionary belongs to the complete row group.
    used, indices = np.unique(encoded.indices.to_numpy(zero_copy_only=False), return_inverse=True)
    texts = encoded.dictionary.take(pa.array(used)).to_pylist()
    return np.array([str(text) for text in texts], dtype=object), indices


def id_texts(ids: pa.Array, num_rows: int) -> NDArray[np.object_]:
    """Return a batch's ids as strings. `num_rows` is the number of rows in the file.

    Raise BadPredictionsError if an id is missing or too long, or if `num_rows` ids as long as the longest id would
    need too much memory.
    """
    if ids.null_count:
        raise BadPredictionsError("its predictions have rows without an id: give each row an id")
    texts, indices = texts_of(ids)
    longest = max((len(text) for text in texts), default=0)
    if longest > MAX_ID_CHARACTERS:
        raise BadPredictionsError(
            f"its predictions have an id of more than {MAX_ID_CHARACTERS} characters: write shorter ids"
        )
    if longest * num_rows > MAX_ID_TOTAL:
        raise BadPredictionsError(
            f"its predictions have {num_rows:,} rows, and the longest id has {longest} characters. The product is more "
            f"than {MAX_ID_TOTAL:,}: write shorter ids or fewer rows"
        )
    return texts[indices]


class Names:
    """A column of names, read batch by batch. To save memory, rows with the same name share one string object."""

    def __init__(self, num_rows: int, what: str) -> None:
        self._what = what
        self._column = np.empty(num_rows, dtype=object)
        self._names: dict[str, str] = {}
        self._num_characters = 0
        self._has_missing = False

    def read(self, rows: slice, batch: pa.Array) -> None:
        if batch.null_count or self._has_missing:
            self._has_missing = True
            return
        texts, indices = texts_of(batch)
        self._num_characters += sum(len(text) for text in texts if text not in self._names)
        if self._num_characters > MAX_NAME_TOTAL:
            raise BadPredictionsError(
                f"its predictions have {self._what} names of more than {MAX_NAME_TOTAL:,} characters in total, "
                "which is too much to read: write shorter names"
            )
        self._column[rows] = np.array([self._names.setdefault(text, text) for text in texts], dtype=object)[indices]

    def column(self) -> NDArray[np.object_] | None:
        """Return the names of all rows, or None if the name of any row is missing."""
        return None if self._has_missing else self._column


def whole_numbers(column: pa.Array) -> np.ndarray:
    """Return a column of integers as int64. Raise ValueError for nulls and for other types."""
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"{column.type} with {column.null_count} missing values")
    return column.to_numpy().astype(np.int64)


def probability_matrix(lists: pa.Array, num_classes: int) -> np.ndarray:
    """Return a batch's probabilities, shape (rows, C). Raise BadPredictionsError unless each row has C numbers."""
    values = lists.flatten()
    if values.null_count or lists.null_count or not np.all(lists.value_lengths().to_numpy() == num_classes):
        raise BadPredictionsError(DIFFERENT_CLASSES)
    return values.to_numpy().reshape(len(lists), num_classes)


def check_values(ids: np.ndarray, labels: np.ndarray, predictions: np.ndarray, probabilities_NC: np.ndarray) -> None:
    """Raise BadPredictionsError for repeated ids, unknown classes, or rows that are not probability distributions."""
    num_classes = probabilities_NC.shape[1]
    if len(set(ids)) != len(ids):
        raise BadPredictionsError("its predictions contain the same id twice: give each row its own id")
    if min(labels.min(), predictions.min()) < 0 or max(labels.max(), predictions.max()) >= num_classes:
        raise BadPredictionsError(
            f"its labels or predictions are not all between 0 and {num_classes - 1}: correct these values"
        )
    if not np.all(np.abs(probabilities_NC.sum(axis=1) - 1) < 0.02) or probabilities_NC.min() < 0:
        raise BadPredictionsError(
            "its predictions have a row whose probabilities are negative or do not sum to 1: correct the probabilities"
        )
