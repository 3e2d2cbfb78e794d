"""Compute learning curves: a metric by epoch, averaged over the seeds of a group."""

from collections import defaultdict

from imdbcls.comparison.group import Group
from imdbcls.comparison.results import CurvePoint
from imdbcls.comparison.run_files import number

CURVES = ("val/accuracy", "val/f1", "val/auroc", "val/loss", "train/loss")  # keys of metrics.jsonl
MAX_POINTS = 400


def learning_curve(group: Group, metric: str) -> tuple[CurvePoint, ...]:
    """Return the mean, lowest and highest value of a metric over the runs, by epoch.

    If there are more than `MAX_POINTS` epochs, return at most `MAX_POINTS` evenly spaced epochs. Return an empty tuple
    if no run logged the metric.
    """
    values: dict[float, list[float]] = defaultdict(list)
    for run in group.runs:
        for point in run.history:
            epoch, value = number(point.get("epoch")), number(point.get(metric))
            if epoch is not None and value is not None:
                values[round(epoch, 4)].append(value)
    epochs = sorted(values)
    epochs = epochs[:: max(1, -(-len(epochs) // MAX_POINTS))]
    return tuple(curve_point(epoch, values[epoch]) for epoch in epochs)


def curve_point(epoch: float, values: list[float]) -> CurvePoint:
    return CurvePoint(epoch, sum(values) / len(values), min(values), max(values), len(values))


def learning_curves(group: Group) -> dict[str, tuple[CurvePoint, ...]]:
    return {metric: learning_curve(group, metric) for metric in CURVES}
