"""The metric that selects the best epoch of a run: the key `metric` of the config and of `result.json`."""

import math
from collections.abc import Mapping
from typing import Any

DEFAULT = "accuracy"  # also of runs that recorded no metric
TITLES = {"accuracy": "accuracy", "f1": "macro F1", "auroc": "AUROC", "loss": "loss", "brier": "Brier score"}
LOWER_IS_BETTER = ("loss", "brier")


def metric_of(result: Mapping[str, Any]) -> str:
    """Return the metric that a result recorded. `DEFAULT` if it recorded none, or one that is unknown."""
    name = result.get("metric")
    return name if isinstance(name, str) and name in TITLES else DEFAULT


def as_text(metric: str, value: Any) -> str:
    """Return a value of a metric from a result, in percent except for loss and Brier score, as in `compare`."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "undefined"
    return f"{value:.4f}" if metric in LOWER_IS_BETTER else f"{value:.2%}"
