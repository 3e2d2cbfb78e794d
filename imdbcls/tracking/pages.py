"""Convert the records of a run to tables and Markdown for trackers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imdbcls.models.metrics import confusion_matrix
from imdbcls.tracking.protocol import Table

MAX_TEXT = 500  # characters of a document in the table of mistakes
MAX_CLASSES = 100  # classes in W&B's confusion matrix; wandb keeps only the first 10,000 rows of a table
MAX_CONFUSIONS = 1_000  # rows in the table that replaces this confusion matrix
MISTAKE_COLUMNS = ("id", "text", "label", "prediction", "probability")


def table_page(table: Table) -> str:
    """Return a table as Markdown."""
    header, rows = table
    lines: list[list[str | int]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(value: Any) -> str:
    r"""Return a value as the text of a Markdown table cell: truncated, on one line, with `|` written as `\|`."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return " ".join(text.split()).replace("|", "\\|")


def values_page(values: Mapping[str, Any]) -> str:
    """Return a mapping without nesting as a Markdown table with the columns `key` and `value`."""
    return table_page((["key", "value"], [[key, spelled(value)] for key, value in values.items()]))


def spelled(value: Any) -> str:
    """Return a value as a string: strings unchanged, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to a mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        is_nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if is_nested else {f"{prefix}{key}": value}
    return found


def confusion_table(labels: Sequence[int], predictions: Sequence[int], label_names: Sequence[str]) -> Table:
    """Return the confusion matrix as a table, with one row per label and one column per prediction."""
    counts = confusion_matrix(np.array(labels), np.array(predictions), len(label_names))
    rows: list[list[str | int]] = [[name, *row] for name, row in zip(label_names, counts, strict=True)]
    return ["label \\ prediction", *label_names], rows


def confusions_table(labels: Sequence[int], predictions: Sequence[int], label_names: Sequence[str]) -> Table:
    """Return the most frequent pairs of a label and a wrong prediction as a table, with their number of documents."""
    counts = Counter(pair for pair in zip(labels, predictions, strict=True) if pair[0] != pair[1])
    most_frequent = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MAX_CONFUSIONS]
    rows: list[list[str | int]] = [[label_names[label], label_names[wrong], n] for (label, wrong), n in most_frequent]
    return ["label", "prediction", "documents"], rows


def mistakes_table(mistakes: Sequence[Mapping[str, Any]]) -> Table:
    """Return misclassified documents as a table with the columns `MISTAKE_COLUMNS`."""
    return [*MISTAKE_COLUMNS], [[mistake[name] for name in MISTAKE_COLUMNS] for mistake in mistakes]


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in `result.json` by dotted key.

    The prefix `final/` distinguishes `val/` and `train/` metrics from the curves with the same names.
    """
    numbers = {
        key: value
        for key, value in flat(result).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {f"final/{key}" if key.startswith(("val/", "train/")) else key: value for key, value in numbers.items()}
