"""Turn the predictions of a group into the arrays that the statistics use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from imdbcls.comparison.estimate import SeedVariance
from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import Metric
from imdbcls.comparison.results import MetricSummary
from imdbcls.comparison.statistics import Sample, Units, mean_over_seeds


def sample_of(group: Group, metric: Metric, units: Units, rows: NDArray | None = None) -> Sample:
    """Return the metric of a group on the documents in `rows`, or on all its documents if `rows` is None.

    `units` must be the units of exactly these documents.
    """
    chosen = [run.predictions if rows is None else run.predictions.take(rows) for run in group.runs]
    evaluated = [metric.evaluate(predictions) for predictions in chosen]
    values_S, influence_NS = [value for value, _ in evaluated], np.stack([influence for _, influence in evaluated], 1)
    return Sample.of(values_S, influence_NS, units, group.collapsed_S, metric.step(chosen[0]))


def is_undefined(sample: Sample) -> bool:
    """Return whether the metric is undefined for any seed, as AUROC is if a class has no documents."""
    return not bool(np.isfinite(sample.values_S).all())


def units_of(groups: Sequence[Group]) -> list[Units]:
    """Return the units of each group. Groups with the same documents and clusters share one `Units` object."""
    found: list[tuple[Group, Units]] = []
    units = []
    for group in groups:
        same = next((known for other, known in found if has_units_of(group, other)), None)
        if same is None:
            same = Units(len(group.ids), group.clusters_N)
            found.append((group, same))
        units.append(same)
    return units


def has_units_of(group: Group, other: Group) -> bool:
    if not group.has_documents_of(other):
        return False
    if group.clusters_N is None or other.clusters_N is None:
        return group.clusters_N is other.clusters_N
    return np.array_equal(group.clusters_N, other.clusters_N)


def largest_collapse_rate(num_seeds: int, num_collapsed: int = 0) -> float:
    """Return the upper 95 % confidence limit of the probability that a seed collapses (Clopper and Pearson 1934).

    For no collapse among S seeds, this is 1 - 0.05^(1/S).
    """
    return 1.0 if num_collapsed == num_seeds else float(beta.ppf(0.95, num_collapsed + 1, num_seeds - num_collapsed))


def summarize(sample: Sample, seed_variance: SeedVariance | None, upper: float = 1.0) -> MetricSummary:
    """Summarize one metric over seeds. The interval is clipped to the range from 0 to `upper`."""
    estimate = mean_over_seeds(sample, seed_variance)
    low, high = estimate.interval()
    return MetricSummary(
        mean=estimate.value,
        low=float(max(low, 0.0)),
        high=float(min(high, upper)),
        std=float(np.std(sample.values_S, ddof=1)) if len(sample) > 1 else None,
        values=tuple(float(value) for value in sample.values_S),
    )
