"""Learning curves: a validation metric over training, averaged over a group's seeds."""

from collections import defaultdict
from typing import Any

from imdbcls.comparison.run_files import number
from imdbcls.comparison.study import Group

MAX_POINTS = 400


def learning_curve(group: Group, metric: str) -> list[dict[str, float]]:
    """Points with `epoch`, the seeds' `mean`, their `low` and `high`, and the number of `seeds` that logged there."""
    values: dict[float, list[float]] = defaultdict(list)
    for run in group.runs:
        for point in run.history:
            epoch, value = number(point.get("epoch")), number(point.get(metric))
            if epoch is not None and value is not None:
                values[round(epoch, 4)].append(value)
    epochs = sorted(values)
    epochs = epochs[:: max(1, -(-len(epochs) // MAX_POINTS))]
    return [
        {
            "epoch": epoch,
            "mean": sum(values[epoch]) / len(values[epoch]),
            "low": min(values[epoch]),
            "high": max(values[epoch]),
            "seeds": len(values[epoch]),
        }
        for epoch in epochs
    ]


def learning_curves(group: Group) -> dict[str, Any]:
    return {metric: learning_curve(group, metric) for metric in ("val/accuracy", "val/loss")}
