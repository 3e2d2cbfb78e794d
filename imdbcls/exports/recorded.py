"""Read the values in a model card from a run's `result.json` and its study's `comparison.json`.

Both files are untrusted. Their texts are made printable, and characters with a meaning in Markdown or HTML are
replaced by spaces. A value that is missing or has an unexpected type becomes None.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imdbcls.comparison.run_files import number, sanitize
from imdbcls.errors import UserError
from imdbcls.models.metrics import wilson_interval
from imdbcls.runs.encoder_source import CAVEATS, same_splits_of
from imdbcls.runs.selection import TITLES, as_text
from imdbcls.runs.untrusted import read_json

MARKUP = re.compile(r"[<>\[\]|`*#\\]")
TEXTS = ("split_hash", "temperature_reason", "hardware")
COUNTS = ("train_documents", "test_documents", "best_epoch", "parameters", "head_parameters")
NUMBERS = ("test/accuracy", "test/f1", "test/auroc", "test/ece", "test/ece_calibrated", "train_seconds")


def plain(text: str) -> str:
    """Return text on one line, with spaces instead of characters that have a meaning in Markdown or HTML."""
    return MARKUP.sub(" ", sanitize(text, 300)).strip()


def recorded_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a result that the card shows, by their key in `result.json`."""
    latency, watched = result.get("latency_ms"), result.get("watched_test")
    return {
        **{key: plain(result[key]) if isinstance(result.get(key), str) else None for key in TEXTS},
        **{key: count(result.get(key)) for key in COUNTS},
        **{key: number(result.get(key)) for key in NUMBERS},
        "latency_ms": number(latency.get("p50")) if isinstance(latency, dict) else None,
        "watched_test": watched if isinstance(watched, bool) else None,
        "encoder_caveat": CAVEATS.get(same_splits_of([result])),  # a predicate; None: no caveat
    }


def count(value: Any) -> int | None:
    found = number(value)
    return None if found is None or found < 0 else int(found)


def count_of(result: Mapping[str, Any], split: str, key: str) -> int | None:
    counts = result.get("token_counts")
    found = counts.get(split) if isinstance(counts, dict) else None
    return count(found.get(key)) if isinstance(found, dict) else None


def truncated_share(result: Mapping[str, Any]) -> float | None:
    """Return the share of test documents that are longer than `max_length`."""
    documents, truncated = count_of(result, "test", "documents"), count_of(result, "test", "truncated")
    return None if not documents or truncated is None else truncated / documents


def accuracy_limits(result: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the test accuracy, as if all documents were independent."""
    accuracy, documents = number(result.get("test/accuracy")), count(result.get("test_documents"))
    if accuracy is None or not 0 <= accuracy <= 1 or not documents:
        return None
    return wilson_interval(round(accuracy * documents), documents)


def comparison_of(folders: Sequence[Path], names: Sequence[Any]) -> dict[str, Any] | None:
    """Return the rank, the metric and the verdicts of the runs' group in the comparison of their study.

    `folders` are the run folders, and `names` are the names of the runs. The result is None if there is no comparison,
    or if the runs are not in the same study and group. The groups are ranked by `metric`. `mean`, `low` and `high` are
    values of this metric as text.
    """
    studies = {folder.absolute().parent for folder in folders}
    if len(studies) > 1:
        return None
    try:
        content = read_json(studies.pop() / "comparison.json")
    except UserError:
        return None
    try:
        group = next(each for each in content["groups"] if set(names) <= {run["name"] for run in each["runs"]})
        verdicts = [pair["verdict"] for pair in content["pairs"] if group["name"] in (pair["a"], pair["b"])]
        metric = content["metric"].removeprefix("test/")
        values = [number(group["metrics"][content["metric"]][key]) for key in ("mean", "low", "high")]
        rank = count(group["rank"])
        if rank is None or None in values:
            return None
        return {
            "study": plain(str(content["study"])),
            "group": plain(str(group["name"])),
            "seeds": len(group["seeds"]),
            "rank": rank,
            "num_groups": len(content["groups"]),
            "metric": TITLES[metric],
            **dict(zip(("mean", "low", "high"), (as_text(metric, value) for value in values), strict=True)),
            "headline": plain(str(content["headline"])),
            "verdicts": [plain(str(verdict)) for verdict in verdicts],
        }
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None
