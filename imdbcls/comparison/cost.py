"""The costs of a group, and the Pareto front of the metric and each cost."""

from collections.abc import Sequence
from typing import Any

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import GroupSummary
from imdbcls.comparison.run_files import number

COSTS = {
    "head_parameters": "head parameters",
    "parameters": "total parameters",
    "train_seconds": "training time (s)",
    "documents_per_second": "training speed (documents/s)",
    "latency_ms_p50": "latency per document, median (ms)",
    "latency_ms_p95": "latency per document, 95th percentile (ms)",
    "peak_memory_mb": "peak memory (MB)",
}
FASTER_IS_BETTER = {"documents_per_second"}


def costs_of(group: Group) -> dict[str, float | None]:
    """Return the mean of each cost over the runs that recorded it, or None for a cost that no run recorded."""
    return {key: sum(values) / len(values) if values else None for key, values in costs_by_seed(group).items()}


def cost_ranges_of(group: Group) -> dict[str, tuple[float, float] | None]:
    """Return the lowest and highest value of each cost over the runs, or None for a cost that no run recorded."""
    return {key: (min(values), max(values)) if values else None for key, values in costs_by_seed(group).items()}


def costs_by_seed(group: Group) -> dict[str, list[float]]:
    return {key: [value for run in group.runs if (value := cost_of_run(run.result, key)) is not None] for key in COSTS}


def cost_of_run(result: dict[str, Any], key: str) -> float | None:
    if not key.startswith("latency_ms_"):
        return number(result.get(key))
    latency = result.get("latency_ms")
    return number(latency.get(key.removeprefix("latency_ms_"))) if isinstance(latency, dict) else None


def pareto_fronts(groups: Sequence[GroupSummary], metric: Metric) -> dict[str, tuple[str, ...]]:
    return {cost: pareto_front(groups, cost, metric) for cost in COSTS}


def pareto_front(groups: Sequence[GroupSummary], cost: str, metric: Metric) -> tuple[str, ...]:
    """Return the names of the groups on the Pareto front of the metric and this cost.

    A group is on the front if no other group is at least as good in both the metric and the cost, and better in one.
    Groups that did not record this cost are left out.
    """
    sign = -1.0 if cost in FASTER_IS_BETTER else 1.0
    points = [
        (group.name, metric.sign * group.primary.mean, sign * price)
        for group in groups
        if (price := group.cost[cost]) is not None
    ]
    return tuple(
        name
        for name, value, price in points
        if not any(v >= value and p <= price and (v > value or p < price) for _, v, p in points)
    )
