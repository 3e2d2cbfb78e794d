"""The metric that selects the best epoch of a run: the key `metric` of the config and of `result.json`."""

import math
from collections.abc import Mapping
from typing import Any

DEFAULT = "accuracy"  # the metric of a run that recorded no metric
TITLES = {"accuracy": "accuracy", "f1": "macro F1", "auroc": "AUROC", "loss": "loss", "brier": "Brier score"}
LOWER_IS_BETTER = ("loss", "brier")


def metric_of(result: Mapping[str, Any]) -> str:
    """Return the metric that is recorded in `result`, or `DEFAULT` if it is missing or unknown."""
    name = result.get("metric")
    return name if isinstance(name, str) and name in TITLES else DEFAULT


def as_text(metric: str, value: Any) -> str:
    """Return a metric value as text, in percent except for loss and Brier score; "undefined" if it is not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "undefined"
    return f"{value:.4f}" if metric in LOWER_IS_BETTER else f"{value:.2%}"


def selected_epochs(result: Mapping[str, Any]) -> str:
    """Describe which epochs the selected weights of a run come from: the best epoch, or the epochs of a greedy soup."""
    best, soup = f"best epoch {result['best_epoch']}", result.get("soup_epochs", [])
    if len(soup) > 1:
        return f"mean of epochs {', '.join(map(str, soup))}"
    return f"{best}; no mean of epochs is better" if soup else best
