"""Choose and fill the figures of a comparison. Accuracies are in percent, differences in points.

`svg_figures` draws the figures for the page, and `paper_figures` draws them as PDF and PNG. Figures refer to groups by
their index in the comparison, best first. The index determines the colour.
"""

import math
from collections import Counter
from collections.abc import Sequence

from imdbcls.comparison.cost import COSTS
from imdbcls.comparison.metrics import METRICS, Metric
from imdbcls.comparison.results import Comparison, CurvePoint, GroupSummary, PairResult
from imdbcls.comparison.views.extent import shown_groups, shown_pairs
from imdbcls.comparison.views.figure_types import (
    INTERVAL_SHIFT,
    Axis,
    BestEpoch,
    CostPlane,
    CostPoint,
    CurvePlot,
    Figure,
    Interval,
    IntervalPlot,
    LengthCell,
    LengthPlot,
    ReliabilityPlot,
    padded,
)
from imdbcls.comparison.views.quantities import interval_text, scale_of, title_of, upper_first, value_text
from imdbcls.comparison.views.wording import verdict

COST_PLANES = ("latency_ms_p50", "train_seconds", "head_parameters", "peak_memory_mb")
CURVES = {  # keys of GroupSummary.learning_curves, and their metrics
    f"val/{name}": METRICS[name] for name in ("accuracy", "f1", "auroc", "loss")
}
ALWAYS = ("val/accuracy", "val/loss")  # curves that are shown whichever metric the comparison uses
MAX_TRAIN_CURVES = 6  # groups; with more groups, the training loss is left out
FAR_AWAY = 0.5  # a reference value is drawn up to this distance from the values, as a fraction of their range
LOG_FACTOR = 20  # the axis is logarithmic if the largest cost is more than this many times the smallest


def figures_of(comparison: Comparison) -> dict[str, Figure]:
    """Return the figures, keyed by name. Figures without data are left out."""
    groups, pairs = comparison.groups, shown_pairs(comparison)
    side_by_side = shown_groups(groups)
    figures: dict[str, Figure] = {"accuracy": metric_plot(comparison)}
    if comparison.size_curves:
        figures["sizes"] = size_plot(comparison)
    if pairs:
        figures["differences"] = difference_plot(pairs, comparison.metric, comparison.margin)
    for curve in CURVES:
        is_shown = curve in ALWAYS or curve == f"val/{comparison.metric.name}"
        if is_shown and any(group.learning_curves[curve] for group in side_by_side):
            figures[f"curves_{curve.removeprefix('val/')}"] = curve_plot(side_by_side, curve)
    for cost in COST_PLANES if len(groups) > 1 else ():
        if any(group.cost[cost] is not None for group in groups):
            figures[f"cost_{cost}"] = cost_plane(groups, cost, comparison)
    if all(group.reliability for group in side_by_side):
        axis = reliability_axis(side_by_side)
        for i in range(len(side_by_side)):
            figures[f"reliability_{i}"] = ReliabilityPlot(i, side_by_side, axis)
    if any(part.accuracy is not None for group in side_by_side for part in group.parts.length):
        figures["length"] = length_plot(side_by_side)
    return figures


def metric_plot(comparison: Comparison) -> IntervalPlot:
    metric = comparison.metric
    rows, scale = [], scale_of(metric)
    for i, group in enumerate(comparison.groups):
        found = group.primary
        tip = (
            f"{group.name}: {value_text(metric, found.mean)}, 95 % confidence interval "
            f"{interval_text(metric, found.low, found.high)}"
        )
        mean, low, high = (scale * value for value in (found.mean, found.low, found.high))
        rows.append(Interval(group.name, mean, low, high, tuple(scale * value for value in found.values), i, tip))
    notes: tuple[str, ...] = ("95 % confidence intervals", "open circles: seeds")
    if all(len(row.dots) == 1 for row in rows):
        notes = ("95 % confidence intervals over documents",)
    baseline = comparison.baseline.get(metric.key)
    reference = None if baseline is None else (scale * baseline, "largest class")
    return interval_plot(rows, axis_title(metric), None, notes, reference)


def axis_title(metric: Metric) -> str:
    better = "" if metric.higher_is_better else " (lower is better)"
    return f"test {title_of(metric)}{better}"


def difference_plot(pairs: Sequence[PairResult], metric: Metric, margin: float | None) -> IntervalPlot:
    scale = scale_of(metric)
    rows = [
        Interval(
            label=f"{pair.a} - {pair.b}",
            value=scale * pair.difference,
            low=scale * pair.simultaneous_low,
            high=scale * pair.simultaneous_high,
            dots=(),
            series=pair.outcome,
            tip=verdict(pair, metric),
        )
        for pair in pairs
    ]
    side = "above" if metric.higher_is_better else "below"
    title = f"difference in {metric.title}{', points' if metric.is_percentage else ''}"
    intervals = "simultaneous 95 % intervals" if len(pairs) > 1 else "95 % interval"
    notes = (intervals, f"{side} 0: the first group is better")
    return interval_plot(rows, title, 0.0 if margin is None else scale * margin, notes)


def interval_plot(
    rows: Sequence[Interval],
    title: str,
    margin: float | None,
    notes: tuple[str, ...],
    reference: tuple[float, str] | None = None,
) -> IntervalPlot:
    """Describe an interval plot. Leave out a reference value that is so far away that the intervals would be tiny."""
    values = [value for row in rows for value in (row.low, row.high, *row.dots)]
    values += (0.0, -margin, margin) if margin is not None else ()
    if reference is not None:
        reach = FAR_AWAY * (max(values) - min(values))
        if min(values) - reach <= reference[0] <= max(values) + reach:
            values.append(reference[0])
        else:
            reference = None
    return IntervalPlot(tuple(rows), Axis(title, *padded(values)), margin, notes, reference)


def curve_plot(groups: Sequence[GroupSummary], metric: str) -> CurvePlot:
    title, scale = f"validation {title_of(CURVES[metric])}", scale_of(CURVES[metric])
    curves = tuple(scaled(group.learning_curves[metric], scale) for group in groups)
    training: tuple[tuple[CurvePoint, ...], ...] = ()
    if metric == "val/loss" and len(groups) <= MAX_TRAIN_CURVES:
        training = tuple(scaled(group.learning_curves["train/loss"], scale) for group in groups)
    points = [point for curve in (*curves, *training) for point in curve]
    epochs = [point.epoch for point in points]
    values = [value for point in points for value in (point.low, point.high)]
    names = tuple(group.name for group in groups)
    best = tuple(best_epochs(group, curve) for group, curve in zip(groups, curves, strict=True))
    if any(training):
        title = "loss: validation solid, training dashed"
    num_seeds = tuple(len(group.seeds) for group in groups)
    x = Axis("epoch", min(epochs), max(epochs), whole=True)
    return CurvePlot(names, curves, training if any(training) else (), best, num_seeds, x, Axis(title, *padded(values)))


def size_plot(comparison: Comparison) -> CurvePlot:
    """Describe the curves by training size, with 95 % confidence intervals."""
    scale, curves = scale_of(comparison.metric), comparison.size_curves
    drawn = tuple(
        tuple(
            CurvePoint(
                point.train_documents,
                scale * point.value.mean,
                scale * point.value.low,
                scale * point.value.high,
                len(point.value.values),
            )
            for point in curve.points
        )
        for curve in curves
    )
    sizes = sorted({point.epoch for curve in drawn for point in curve})
    values = [value for curve in drawn for point in curve for value in (point.low, point.high)]
    margin = INTERVAL_SHIFT ** len(curves)
    x = Axis("training documents, log scale", sizes[0] / margin, sizes[-1] * margin, log=True, at=tuple(sizes))
    num_seeds = tuple(max(point.num_seeds for point in curve) for curve in drawn)
    y = Axis(axis_title(comparison.metric), *padded(values))
    names, best = tuple(curve.name for curve in curves), ((),) * len(curves)
    return CurvePlot(names, drawn, (), best, num_seeds, x, y, has_intervals=True)


def scaled(curve: Sequence[CurvePoint], scale: float) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(p.epoch, scale * p.mean, scale * p.low, scale * p.high, p.num_seeds) for p in curve)


def best_epochs(group: GroupSummary, curve: Sequence[CurvePoint]) -> tuple[BestEpoch, ...]:
    """Return each epoch that is the best epoch of a seed, with the value of `curve` and the number of such seeds."""
    counts = Counter(run.best_epoch for run in group.runs)
    return tuple(
        BestEpoch(point.epoch, point.mean, counts[int(point.epoch)])
        for point in curve
        if point.epoch == int(point.epoch) and counts[int(point.epoch)]
    )


def cost_plane(groups: Sequence[GroupSummary], cost: str, comparison: Comparison) -> CostPlane:
    metric, scale = comparison.metric, scale_of(comparison.metric)
    points = tuple(
        CostPoint(
            i,
            group.name,
            price,
            scale * group.primary.mean,
            prices,
            (scale * min(group.primary.values), scale * max(group.primary.values)),
        )
        for i, group in enumerate(groups)
        if (price := group.cost[cost]) is not None and (prices := group.cost_range[cost]) is not None
    )
    costs = [value for point in points for value in point.costs]
    log = min(costs) > 0 and max(costs) / min(costs) > LOG_FACTOR
    # A linear axis starts at zero, so that small differences in cost look small.
    low, high = (min(costs) / 1.6, max(costs) * 1.6) if log else (0.0, 1.15 * max(costs) or 1.0)
    name = COSTS[cost]
    x = Axis(name + (", log scale" if log else ""), low, high, log)
    y = Axis(axis_title(metric), *padded([value for point in points for value in point.values], 0.18))
    title = f"{upper_first(title_of(metric))} and {name.split(' (')[0]}"
    return CostPlane(title, points, comparison.pareto[cost], x, y)


def reliability_axis(groups: Sequence[GroupSummary]) -> Axis:
    lowest = min(value for group in groups for p in group.reliability for value in (p.confidence, p.accuracy))
    return Axis("confidence", math.floor(10 * lowest) / 10, 1)


def length_plot(groups: Sequence[GroupSummary]) -> LengthPlot:
    names = [part.name for part in groups[0].parts.length]  # the same in all groups
    used = [i for i, _ in enumerate(names) if any(group.parts.length[i].accuracy is not None for group in groups)]
    cells = tuple(
        LengthCell(g, group.name, column, part, 100 * accuracy.mean, 100 * accuracy.low, 100 * accuracy.high)
        for g, group in enumerate(groups)
        for column, part in enumerate(group.parts.length[i] for i in used)
        if (accuracy := part.accuracy) is not None
    )
    values = [value for cell in cells for value in (cell.low, cell.high)] or [0.0, 100.0]
    y = Axis("test accuracy %", *padded(values))
    return LengthPlot(len(groups), tuple(names[i] for i in used), cells, y)


def short_name(name: str, characters: int) -> str:
    return name if len(name) <= characters else name[: characters - 1] + "…"
