"""Check the `result.json` and the predictions of a finished run.

This module has no heavy imports, because the training command uses it before torch is loaded.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runs.selection import metric_of
from imdbcls.runs.untrusted import require_regular_file, sha256

SPLITS = ("test", "validation")
TRIAL_STATUSES = ("trial", "pruned")  # statuses of trials that trained for all epochs, or were stopped early
TEXTS = ("head", "config_hash", "group_hash", "split_hash")
FRACTIONS = ("val/accuracy", "test/accuracy")
NUM_CALIBRATION_BINS = 15  # bins of val/ece and test/ece
MAX_SHOWN = 40  # characters of a wrong value in a message
PARQUET_MAGIC = b"PAR1"  # the first and last bytes of every Parquet file


def problem_of_result(result: Mapping[str, Any]) -> str | None:
    """Return the reason why a result does not belong to a finished run; None for a finished run.

    The reason is a predicate, such as "has no seed".
    """
    if result.get("status") != "done":
        return f"has status {shown(result['status'])}" if "status" in result else "has no status"
    missing = [key for key in (*TEXTS, "seed", *FRACTIONS, "test_documents", "label_names") if key not in result]
    if missing:
        return f"has no {', '.join(missing)}"
    wrong = [key for key in TEXTS if not isinstance(result[key], str) or not result[key]]
    wrong += [key for key in ("seed", "test_documents") if not is_count(result[key])]
    wrong += [key for key in FRACTIONS if not is_fraction(result[key])]
    if wrong:
        return f"has the invalid value {shown(result[wrong[0]])} for {wrong[0]}"
    return problem_of_labels(result["label_names"])


def problem_of_trial(result: Mapping[str, Any]) -> str | None:
    """Return the reason why a result does not belong to a finished or pruned trial; None for such a trial.

    The reason is a predicate, such as "has no status".
    """
    if result.get("status") not in TRIAL_STATUSES:
        return f"has status {shown(result['status'])}" if "status" in result else "has no status"
    key = f"val/{metric_of(result)}"
    if not isinstance(result.get("config_hash"), str) or not isinstance(result.get(key), int | float):
        return f"has no config_hash or no {key}"
    return None


def problem_of_labels(names: Any) -> str | None:
    """Return the reason why `names` are not valid class names, or None if they are valid.

    The reason is a predicate that begins with "has".
    """
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        return f"has {shown(names)} as label_names, which is not a list of two or more strings"
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return f"has {shown(name)} more than once in label_names"
        seen.add(name)
    return None


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def shown(value: Any) -> str:
    """Return a value from a file as ASCII text. Text after the first `MAX_SHOWN` characters becomes an ellipsis."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def checksums_of_predictions(run: Path) -> dict[str, str]:
    """Return the SHA-256 of each split's predictions file, for `result.json`."""
    return {split: sha256(path_of_predictions(run, split)) for split in SPLITS}


def path_of_predictions(run: Path, split: str) -> Path:
    return run / "predictions" / f"{split}.parquet"


def problem_of_predictions(run: Path, result: Mapping[str, Any], split: str) -> str | None:
    """Return the problem with a split's predictions file, or None if the file is intact.

    The file is intact if its SHA-256 equals the SHA-256 in `result`. Another tool may write a result without checksums.
    In this case, only the first and last four bytes of the file are checked.
    """
    path = path_of_predictions(run, split)
    name = f"predictions/{path.name}"
    try:
        require_regular_file(path)
        listed = result.get("predictions_sha256")
        if isinstance(listed, dict):
            return None if sha256(path) == listed.get(split) else f"{name} does not match its sha256 in result.json"
        with path.open("rb") as file:
            begin = file.read(4)
            end = file.read()[-4:]
    except UserError:
        return f"{name} is missing or is not a regular file"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None if begin == end == PARQUET_MAGIC else f"{name} is damaged"
