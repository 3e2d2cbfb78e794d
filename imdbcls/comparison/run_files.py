"""Read one run folder safely: it may come from a stranger, so sizes, types and paths are checked before use."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imdbcls.data.documents import MAX_ID_CHARACTERS
from imdbcls.errors import UserError
from imdbcls.record import path_of_predictions, problem_of_predictions
from imdbcls.untrusted import read_json, read_yaml, require_plain

MAX_HISTORY_BYTES = 64 << 20
MAX_PREDICTIONS_BYTES = 2 << 30
MAX_DOCUMENTS = 2_000_000
MAX_PROBABILITIES = 100_000_000
MAX_CLASSES = 1_000
LARGEST = 1e15  # of any figure
REQUIRED = {"seed": int, "head": str, "group_hash": str}


class BadRun(UserError):
    """A run that cannot be compared; the message is one sentence for the user."""


@dataclass(frozen=True)
class Predictions:
    """One run's answers on the test split, sorted by document id.

    `clusters` numbers the groups of documents that belong together (the data's group column); None: none are known.
    """

    ids: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities_NC: np.ndarray
    tokens: np.ndarray
    clusters: np.ndarray | None = None


@dataclass(frozen=True)
class Run:
    name: str
    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions

    @property
    def seed(self) -> int:
        return self.result["seed"]


def is_run_folder(folder: Path) -> bool:
    """Whether the folder holds any file of the run folder contract (`wandb/` and Hydra's own folders do not)."""
    return folder.is_dir() and any((folder / name).exists() for name in ("result.json", "config.yaml", "metrics.jsonl"))


def read_run(folder: Path, study: Path) -> Run:
    """Read and check one run. Raises `BadRun` with one sentence for anything missing, unfinished or damaged."""
    result = read_part(folder / "result.json", study, read_json)
    check_result(result)
    if isinstance(result.get("predictions_sha256"), dict):
        read_part(path_of_predictions(folder, "test"), study, require_plain, "test predictions")
        if problem := problem_of_predictions(folder, result, "test"):
            raise BadRun(f"its {problem}; the run's training command writes them again")
    return Run(
        name=plain(folder.name),
        folder=folder,
        result=result,
        config=read_part(folder / "config.yaml", study, read_yaml),
        history=read_part(folder / "metrics.jsonl", study, read_history) if (folder / "metrics.jsonl").exists() else [],
        predictions=read_part(path_of_predictions(folder, "test"), study, read_predictions, "test predictions"),
    )


def failed_group(folder: Path, study: Path) -> str:
    """The `group_hash` of a run that ended in an error; nothing for any other."""
    try:
        result = read_part(folder / "result.json", study, read_json)
    except BadRun:
        return ""
    return str(result.get("group_hash", "")) if result.get("status") == "failed" else ""


def read_part(path: Path, study: Path, read: Callable[[Path], Any], what: str = "") -> Any:
    """What `read` finds in a file of the run that really lies inside the study folder."""
    what = what or path.name
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadRun(f"it has no {what}") from None
    if not resolved.is_relative_to(study.resolve()):
        raise BadRun(f"its {what} is a link to a file outside the study")
    try:
        return read(resolved)
    except BadRun:
        raise
    except UserError as error:
        problem = plain(str(error).removeprefix(str(resolved)), 300).rstrip(".")
        raise BadRun(f"its {what} is damaged: it {problem}") from error


def check_result(result: dict[str, Any]) -> None:
    """Refuse the `result.json` of a run that is not done, or one that lacks what comparing needs."""
    if result.get("status") != "done":
        raise BadRun(f"it is not finished (status {plain(str(result.get('status')), 40)!r})")
    for key, kind in REQUIRED.items():
        if not isinstance(result.get(key), kind) or isinstance(result.get(key), bool):
            raise BadRun(f"its result.json has no usable {key!r}; the run's training command writes it again")
    for key in ("config_hash", "split_hash"):
        if not isinstance(result.get(key), str | None):
            raise BadRun(f"its result.json has no usable {key!r}; the run's training command writes it again")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged points. Lines that are not JSON objects are skipped: a killed run may leave half a line."""
    require_plain(path, MAX_HISTORY_BYTES)
    points = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                point = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(point, dict):
                points.append(point)
    return points


def read_predictions(path: Path) -> Predictions:
    """Read `predictions/test.parquet`, sorted by id, the probabilities as float32."""
    answers = read_answers(path, np.float32)
    order = np.argsort(answers.ids, kind="stable")
    columns = {field.name: getattr(answers, field.name) for field in fields(Predictions)}
    return replace(answers, **{name: column[order] for name, column in columns.items() if column is not None})


def read_answers(path: Path, dtype: type[np.floating]) -> Predictions:
    """Read a split's predictions in the file's order, whose ids are unique texts of at most 200 characters."""
    require_plain(path, MAX_PREDICTIONS_BYTES)
    try:
        # Ids stay dictionary-encoded while read, so that a small file cannot unfold into gigabytes of text.
        names = [name for name in ("id", "group") if name in pq.read_schema(path).names]
        file = pq.ParquetFile(path, read_dictionary=names)
        check_parquet_size(file)
        columns = ["id", "label", "prediction", "probabilities", "tokens", *names[1:]]
        table = file.read(columns=columns, use_threads=False)
        ids = id_texts(table["id"].combine_chunks())
        clusters = cluster_numbers(table["group"].combine_chunks()) if "group" in names else None
        labels, predictions, tokens = (whole_numbers(table[name]) for name in ("label", "prediction", "tokens"))
        probabilities_NC = probability_matrix(table["probabilities"].combine_chunks(), dtype)
    except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException, MemoryError) as error:
        if isinstance(error, BadRun):
            raise
        raise BadRun("its predictions are damaged or lack a column") from None
    check_answers(ids, labels, predictions, probabilities_NC)
    return Predictions(ids, labels, predictions, probabilities_NC, tokens, clusters)


def check_parquet_size(file: pq.ParquetFile) -> None:
    metadata = file.metadata
    if metadata.num_rows == 0:
        raise BadRun("its predictions are empty")
    if metadata.num_rows > MAX_DOCUMENTS:
        raise BadRun(f"its predictions have {metadata.num_rows:,} rows; at most {MAX_DOCUMENTS:,} are read")
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            if group.column(j).num_values > MAX_PROBABILITIES:
                raise BadRun("its predictions hold more values than can be compared")


def id_texts(ids: pa.Array) -> np.ndarray:
    """Ids as a numpy array of text, whatever their type in the file."""
    values = ids.dictionary if pa.types.is_dictionary(ids.type) else ids
    texts = np.array([str(value) for value in values.to_pylist()], dtype=object)
    if max((len(text) for text in texts), default=0) > MAX_ID_CHARACTERS:
        raise BadRun(f"its predictions have an id of more than {MAX_ID_CHARACTERS} characters")
    if ids.null_count:
        raise BadRun("its predictions have rows without an id")
    return (texts[ids.indices.to_numpy()] if pa.types.is_dictionary(ids.type) else texts).astype(str)


def cluster_numbers(groups: pa.Array) -> np.ndarray | None:
    """Each row's group as the place of its name among the sorted ones; None where a row has no group."""
    if groups.null_count:
        return None
    encoded = groups if pa.types.is_dictionary(groups.type) else groups.dictionary_encode()
    names = np.array([str(name) for name in encoded.dictionary.to_pylist()], dtype=object)  # of any length each
    return np.unique(names, return_inverse=True)[1][encoded.indices.to_numpy()]


def whole_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of integers without gaps; anything else raises ValueError rather than being rounded."""
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"{column.type} with {column.null_count} missing values")
    return column.to_numpy().astype(np.int64)


def probability_matrix(lists: pa.Array, dtype: type[np.floating]) -> np.ndarray:
    """Lists of equal length as an (N, C) matrix."""
    lengths = lists.value_lengths()
    num_classes = lengths[0].as_py() or 0
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(dtype)
    if not 2 <= num_classes <= MAX_CLASSES or values.size != num_classes * len(lists):
        raise BadRun("its probabilities do not have the same number of classes (two or more) in every row")
    return values.reshape(len(lists), num_classes)


def check_answers(ids: np.ndarray, labels: np.ndarray, predictions: np.ndarray, probabilities_NC: np.ndarray) -> None:
    num_classes = probabilities_NC.shape[1]
    if np.unique(ids).size != ids.size:
        raise BadRun("its predictions name a document twice")
    if min(labels.min(), predictions.min()) < 0 or max(labels.max(), predictions.max()) >= num_classes:
        raise BadRun(f"its labels or predictions are not classes 0 to {num_classes - 1}")
    if not np.all(np.abs(probabilities_NC.sum(axis=1) - 1) < 0.02) or probabilities_NC.min() < 0:
        raise BadRun("its probabilities are not between 0 and 1 with a sum of 1 in every row")


def number(value: Any) -> float | None:
    """The value as a float that can be drawn, or None: a stranger's JSON holds anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if abs(value) <= LARGEST else None
    except OverflowError:
        return None


def plain(text: str, max_characters: int = 120) -> str:
    """One printable line: control and direction-changing characters become spaces, so that a terminal is safe."""
    line = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text)
    line = " ".join(line.split())
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"
