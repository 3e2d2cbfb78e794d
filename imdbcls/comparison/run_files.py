"""Read one run folder, which may be untrusted: check sizes, types and paths before use."""

import fcntl
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from imdbcls.config.earlier_versions import with_later_keys
from imdbcls.errors import UserError
from imdbcls.printable import printable_line
from imdbcls.runs.format_version import RESULT, require_version
from imdbcls.runs.plan import has_plan
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.read_predictions import BadPredictionsError, read_predictions
from imdbcls.runs.record import path_of_predictions, problem_of_predictions
from imdbcls.runs.untrusted import read_json, read_yaml, require_regular_file

MAX_HISTORY_BYTES = 64 << 20  # size of metrics.jsonl
MAX_LINE_BYTES = 2**16  # length of a line in metrics.jsonl
MAX_POINTS = 500_000  # lines in metrics.jsonl
HISTORY_KEYS = ("epoch", "step", "train/loss", "val/accuracy", "val/f1", "val/auroc", "val/loss")
WITHOUT_HISTORY = "without this file, the run is compared without learning curves"
MAX_COMMAND = 300  # characters of a command in a message
MAX_VALUE = 1e15  # numbers with a larger absolute value are ignored
MAX_URL_LENGTH = 2_000
URL = re.compile(r"https?://[!-~]+")
REQUIRED = {"seed": int, "head": str, "group_hash": str}


class BadRunError(UserError):
    """A run or study that cannot be compared. For a run, the message is a clause, such as "it has no config.yaml"."""


class UnfinishedRunError(BadRunError):
    """A run that is still training, or that was interrupted and can be continued."""


class StoppedRunError(BadRunError):
    """A run that W&B stopped early, by `early_terminate` of a sweep or on the website."""


@dataclass(frozen=True)
class Run:
    name: str
    result: dict[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions

    @property
    def seed(self) -> int:
        return self.result["seed"]


def is_run_folder(folder: Path) -> bool:
    """Return whether the folder contains a file of a run. A study has other folders too, such as `wandb/`."""
    return folder.is_dir() and any((folder / name).exists() for name in ("result.json", "config.yaml", "metrics.jsonl"))


def read_run(folder: Path, study: Path) -> Run:
    """Read and check one run.

    Raise UnfinishedRunError if the run is unfinished, StoppedRunError if W&B stopped it, and BadRunError for any
    status other than `done`. Raise BadRunError if one of its files, except `metrics.jsonl`, is missing, or if one is
    damaged or outside `study`. Raise OtherVersionError if the run has another format version.
    """
    if not os.path.lexists(folder / "result.json"):
        raise UnfinishedRunError(f"it has no result.json: {why_without_result(folder)}")
    result = read_part(folder / "result.json", study, read_json)
    check_result(result, study)
    if isinstance(result.get("predictions_sha256"), dict):
        read_part(path_of_predictions(folder, "test"), study, require_regular_file, "test predictions file")
        if problem := problem_of_predictions(folder, result, "test"):
            raise BadRunError(f"its {problem}; run its training command again to restore the predictions")
    return Run(
        name=sanitize(folder.name),
        result=result,
        config=with_later_keys(read_part(folder / "config.yaml", study, read_yaml)),
        history=read_part(folder / "metrics.jsonl", study, read_history) if (folder / "metrics.jsonl").exists() else [],
        predictions=read_part(path_of_predictions(folder, "test"), study, read_sorted, "test predictions file"),
    )


def group_and_seed(folder: Path, study: Path, status: str) -> tuple[str, int] | None:
    """Return the `group_hash` and the seed of a run if its status is `status`, such as `failed`.

    Return None if the run has another status, if its result cannot be read, or if one of the two values is missing.
    """
    try:
        result = read_part(folder / "result.json", study, read_json)
    except BadRunError:
        return None
    group_hash, seed = result.get("group_hash"), result.get("seed")
    is_known = isinstance(group_hash, str) and isinstance(seed, int)
    return (group_hash, seed) if result.get("status") == status and is_known else None


def read_part(path: Path, study: Path, read: Callable[[Path], Any], what: str = "") -> Any:
    """Read one file of a run. `what` names the file in errors (default: its file name).

    Raise BadRunError if the file is missing or damaged, or is a link to a file outside the study.
    """
    what = what or path.name
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadRunError(f"it has no {what}") from None
    if not resolved.is_relative_to(study.resolve()):
        raise BadRunError(f"its {what} is a link to a file outside the study; copy the file into the study")
    try:
        return read(resolved)
    except BadRunError:
        raise
    except UserError as error:
        problem = sanitize(str(error).removeprefix(str(resolved)), 300).rstrip(".")
        raise BadRunError(f"its {what} is damaged: it {problem}") from error


def why_without_result(folder: Path) -> str:
    """Return a clause that says whether a run without `result.json` is training or was killed, and how to continue."""
    if is_locked(folder / ".lock"):
        return "it is still training; compare again when it is finished"
    return f"it was killed or the machine stopped; to continue it, repeat {training_command(folder.parent)}"


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a run folder. The lock file is not changed."""
    try:
        require_regular_file(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, UserError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def training_command(study: Path) -> str:
    """Return a phrase for the command that trains the study.

    The phrase contains the command of the last sweep if Hydra's `multirun.yaml` recorded it.
    """
    if has_plan(study):
        return "the command of the study"
    path = study / "multirun.yaml"
    command = sweep_command(path, path.stat().st_mtime_ns) if path.exists() else None
    return "its training command" if command is None else f"its training command (of the last sweep: {command})"


@lru_cache(maxsize=1)  # a study with many unfinished runs needs the command once per run
def sweep_command(path: Path, _modified_ns: int) -> str | None:
    """Return, as printable text, the command of the sweep that wrote `multirun.yaml`, or None if it has no command."""
    try:
        overrides = read_yaml(path)["hydra"]["overrides"]["task"]
    except (UserError, KeyError, TypeError):
        return None
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        return None
    return sanitize(shlex.join(["python", "-m", "imdbcls.train", "--multirun", *overrides]), MAX_COMMAND)


def check_result(result: dict[str, Any], study: Path) -> None:
    """Raise BadRunError if the run is unfinished, or if a key of its `result.json` is missing or invalid.

    Raise OtherVersionError if `result.json` has another format version.
    """
    require_version(result, RESULT)
    if result.get("status") == "stopped":
        raise StoppedRunError("it was stopped by W&B")
    if result.get("status") == "pruned":
        raise BadRunError("it was pruned during tuning")
    if result.get("status") == "trial":
        raise BadRunError("it is a trial of a tuning study, which is not evaluated on test")
    if result.get("status") == "interrupted":
        raise UnfinishedRunError(
            f"it is not finished (status 'interrupted'); to continue it, repeat {training_command(study)}"
        )
    if result.get("status") != "done":
        error = f": {sanitize(str(result['error']), 200).rstrip('.')}" if "error" in result else ""
        repeat = f"; to train it again, repeat {training_command(study)}" if result.get("status") == "failed" else ""
        raise BadRunError(f"it is not finished (status {sanitize(str(result.get('status')), 40)!r}{error}){repeat}")
    for key, kind in REQUIRED.items():
        if not isinstance(result.get(key), kind) or isinstance(result.get(key), bool):
            raise BadRunError(
                f"its result.json has no valid {key!r}; run its training command again to restore this file"
            )
    for key in ("config_hash", "split_hash"):
        if not isinstance(result.get(key), str | None):
            raise BadRunError(
                f"its result.json has no valid {key!r}; run its training command again to restore this file"
            )


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: one point per line. Skip lines that are not JSON objects.

    Keep only the numbers under `HISTORY_KEYS`, to bound the memory that an untrusted file can use. Raise BadRunError if
    a line is too long or there are too many points.
    """
    require_regular_file(path, MAX_HISTORY_BYTES)
    points: list[dict[str, Any]] = []
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                problem = f"its {path.name} has a line of more than {MAX_LINE_BYTES:,} bytes"
                raise BadRunError(f"{problem}; {WITHOUT_HISTORY}")
            try:
                point = json.loads(line.decode("utf-8", errors="replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(point, dict):
                if len(points) == MAX_POINTS:
                    raise BadRunError(f"its {path.name} has more than {MAX_POINTS:,} points; {WITHOUT_HISTORY}")
                points.append({key: point[key] for key in HISTORY_KEYS if isinstance(point.get(key), int | float)})
    return points


def read_sorted(path: Path) -> Predictions:
    """Read `predictions/test.parquet`, sorted by id, with probabilities as float32."""
    try:
        predictions = read_predictions(path, np.float32)
    except BadPredictionsError as error:
        raise BadRunError(str(error)) from error
    return predictions.take(np.argsort(predictions.ids, kind="stable"))


def number(value: Any) -> float | None:
    """Return a value from untrusted JSON as a float, or None if it is not a number within ±`MAX_VALUE`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if abs(value) <= MAX_VALUE else None
    except OverflowError:
        return None


def link_of(result: dict[str, Any], tracker: str) -> str | None:
    """Return the URL of a run's page in a tracker, or None if `result.json` has no valid URL.

    The `links` in `result.json` may be untrusted. Only `http` and `https` URLs with printable ASCII characters are
    valid, because the comparison page links to them.
    """
    links = result.get("links")
    url = links.get(tracker) if isinstance(links, dict) else None
    return url if isinstance(url, str) and len(url) <= MAX_URL_LENGTH and URL.fullmatch(url) else None


def sanitize(text: str, max_characters: int = 120) -> str:
    """Return the text as one line that is safe to print (see `printable_line`), truncated to `max_characters`."""
    line = " ".join(printable_line(text).split())
    return line if len(line) <= max_characters else line[: max_characters - 1] + "…"
