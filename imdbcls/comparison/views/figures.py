"""Draw the figures of a comparison as SVG."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imdbcls.comparison.results import Comparison, GroupSummary, PairResult
from imdbcls.comparison.views import svg
from imdbcls.comparison.views.cost_figure import PLANES, cost_plane
from imdbcls.comparison.views.extent import shown_groups, shown_pairs
from imdbcls.comparison.views.wording import verdict

WIDE, NARROW = 960, 360


@dataclass(frozen=True)
class Row:
    """One line of an interval plot, in percent or points."""

    label: str
    value: float
    low: float
    high: float
    dots: Sequence[float]
    name: str  # CSS class
    tip: str


def figures_of(comparison: Comparison) -> dict[str, str]:
    """Return figures by name, without those that have nothing to show. `_narrow` ones have the width of a phone."""
    groups, pairs, margin = comparison.groups, shown_pairs(comparison), comparison.margin
    side_by_side = shown_groups(groups)
    figures = {
        "accuracy": interval_plot(accuracy_rows(groups), "test accuracy %", None, WIDE),
        "accuracy_narrow": interval_plot(accuracy_rows(groups), "test accuracy %", None, NARROW),
    }
    if pairs:
        title = "difference in points (right of 0: the first is better)"
        figures["differences"] = interval_plot(difference_rows(pairs), title, 100 * margin, WIDE)
        figures["differences_narrow"] = interval_plot(difference_rows(pairs), title, 100 * margin, NARROW)
    for metric, title, scale in (("val/accuracy", "validation accuracy %", 100), ("val/loss", "validation loss", 1)):
        if any(group.learning_curves[metric] for group in side_by_side):
            figures[f"curves_{metric.removeprefix('val/')}"] = learning_figure(side_by_side, metric, title, scale)
    for cost in PLANES:
        if any(group.cost[cost] is not None for group in groups):
            figures[f"cost_{cost}"] = cost_plane(groups, cost, comparison.pareto[cost])
    for i in range(len(side_by_side)):
        figures[f"reliability_{i}"] = reliability_figure(side_by_side, i)
    figures["length"] = length_figure(side_by_side, WIDE)
    figures["length_narrow"] = length_figure(side_by_side, NARROW)
    return figures


def accuracy_rows(groups: Sequence[GroupSummary]) -> list[Row]:
    rows = []
    for i, group in enumerate(groups):
        mean, low, high = (100 * value for value in (group.accuracy.mean, group.accuracy.low, group.accuracy.high))
        tip = f"{group.name}: {mean:.2f} %, 95 % interval {low:.2f} to {high:.2f}"
        rows.append(Row(group.name, mean, low, high, [100 * v for v in group.accuracy.values], svg.colour(i), tip))
    return rows


def difference_rows(pairs: Sequence[PairResult]) -> list[Row]:
    return [
        Row(
            label=f"{pair.a} - {pair.b}",
            value=100 * pair.difference,
            low=100 * pair.low,
            high=100 * pair.high,
            dots=[],
            name=f"verdict-{pair.outcome}",
            tip=verdict(pair),
        )
        for pair in pairs
    ]


def interval_plot(rows: list[Row], title: str, margin: float | None, width: int) -> str:
    """Draw a line per row: interval, mean, small dots. A margin makes it a forest plot, with zero and a band.

    Narrow drawings put the label above its line.
    """
    narrow = width == NARROW
    label_width = 12 + 7 * min(38, max(len(row.label) for row in rows))
    left, right = (8, width - 8) if narrow else (label_width, width - 8)
    step, top = (44, 8) if narrow else (30, 10)
    values = [value for row in rows for value in (row.low, row.high, *row.dots)]
    x = svg.Scale(*svg.padded([*values, *((0.0, -margin, margin) if margin is not None else ())]), left, right)
    bottom = top + step * len(rows) + 4
    parts = []
    if margin is not None:
        parts.append(svg.box(x(-margin), top, x(margin) - x(-margin), bottom - top, "band"))
    for tick in x.ticks(5 if narrow else 8):
        parts.append(svg.line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 15, f"{tick:.4g}", "tick", "middle"))
    if margin is not None:
        parts.append(svg.line(x(0), top, x(0), bottom, "zero"))
    for i, row in enumerate(rows):
        y = top + step * i + (32 if narrow else 17)
        label = svg.short_name(row.label, 38)
        parts.append(svg.text(8, y - 13, label) if narrow else svg.text(2, y + 4, label))
        parts.append(f'<g class="{row.name}">{svg.tooltip(row.tip)}')
        parts.append(svg.line(x(row.low), y, x(row.high), y, "interval"))
        parts += [f'<circle class="dot" cx="{x(dot):g}" cy="{y:g}" r="2.6"/>' for dot in row.dots]
        parts.append(f'<circle class="mean" cx="{x(row.value):g}" cy="{y:g}" r="5"/></g>')
    parts.append(svg.text((left + right) / 2, bottom + 34, title, "title", "middle"))
    label = f"{title}. " + "; ".join(f"{row.label}: {row.value:.2f}, {row.low:.2f} to {row.high:.2f}" for row in rows)
    return svg.figure(width, bottom + 42, label, parts, "narrow" if narrow else "wide")


def learning_figure(groups: Sequence[GroupSummary], metric: str, title: str, scale: float) -> str:
    curves = [group.learning_curves[metric] for group in groups]
    epochs = [point.epoch for curve in curves for point in curve]
    values = [scale * value for curve in curves for point in curve for value in (point.low, point.high)]
    x = svg.Scale(min(epochs), max(epochs), 46, svg.WIDTH - 12)
    y = svg.Scale(*svg.padded(values), svg.HEIGHT - 44, 26)
    parts = [svg.axes(x, y, "epoch", title, [f"{t:.4g}" for t in x.ticks()], [f"{t:.4g}" for t in y.ticks()])]
    for i, curve in enumerate(curves):
        upper = [(x(p.epoch), y(scale * p.high)) for p in curve]
        lower = [(x(p.epoch), y(scale * p.low)) for p in curve]
        if len(curve) > 1:
            parts.append(svg.path([*upper, *lower[::-1]], f"spread {svg.colour(i)}", close=True))
    for i, (group, curve) in enumerate(zip(groups, curves, strict=True)):
        middle = [(x(p.epoch), y(scale * p.mean)) for p in curve]
        if len(curve) > 1:
            parts.append(svg.path(middle, f"curve {svg.colour(i)}"))
        for place, point in zip(middle, curve, strict=True) if len(curve) <= 12 else []:
            tip = f"{group.name}, epoch {point.epoch:g}: {scale * point.mean:.4g}"
            parts.append(svg.marker(*place, i, tip))
    ends = [f"{g.name} ends at {scale * c[-1].mean:.4g}" for g, c in zip(groups, curves, strict=True) if c]
    return svg.figure(svg.WIDTH, svg.HEIGHT, f"Learning curves, {title} over epochs. {'; '.join(ends)}.", parts)


def reliability_figure(groups: Sequence[GroupSummary], shown: int) -> str:
    """Draw one group's curve in its colour, the others in grey; bars show the share of answers per bin."""
    size, left, bottom = 220, 34, 192
    corner = min(value for group in groups for p in group.reliability for value in (p.confidence, p.accuracy))
    corner = math.floor(10 * corner) / 10
    x, y = svg.Scale(corner, 1, left, size - 8), svg.Scale(corner, 1, bottom, 20)
    parts = [svg.text(left, 12, svg.short_name(groups[shown].name, 26), "label strong")]
    for tick in y.ticks(4):
        parts += [
            svg.line(left, y(tick), size - 8, y(tick), "grid"),
            svg.text(left - 5, y(tick) + 4, f"{tick:g}", "tick", "end"),
        ]
        parts.append(svg.text(x(tick), bottom + 15, f"{tick:g}", "tick", "middle"))
    for point in groups[shown].reliability:
        height = point.share * (bottom - 20)
        parts.append(svg.box(x(point.confidence) - 6, bottom - height, 12, height, "share"))
    parts.append(svg.line(x(corner), y(corner), x(1), y(1), "ideal"))
    for i in [*(i for i in range(len(groups)) if i != shown), shown]:
        points = [(x(p.confidence), y(p.accuracy)) for p in groups[i].reliability]
        parts.append(svg.path(points, f"curve {svg.colour(i)}" if i == shown else "behind"))
    for point in groups[shown].reliability:
        share = f"{100 * point.share:.1f} % of answers"
        tip = f"confidence {point.confidence:.2f}: right {point.accuracy:.2f} ({share})"
        spot = x(point.confidence), y(point.accuracy)
        dot = f'<circle class="dot {svg.colour(shown)}" cx="{spot[0]:g}" cy="{spot[1]:g}" r="2.8">'
        parts.append(f"{dot}{svg.tooltip(tip)}</circle>")
    parts.append(svg.text((left + size - 8) / 2, bottom + 32, "confidence", "title", "middle"))
    ece = groups[shown].metrics["test/ece"].mean
    label = f"Reliability of {groups[shown].name}: share of right answers over confidence; ECE {ece:.4f}."
    return svg.figure(size, bottom + 38, label, parts, "small")


def length_figure(groups: Sequence[GroupSummary], width: int) -> str:
    names = [part.name for part in groups[0].parts.length]
    labels = [re.sub(r"^\d+-", "≤ ", name) for name in names] if width == NARROW else names
    used = [i for i, _ in enumerate(names) if any(group.parts.length[i].accuracy is not None for group in groups)]
    cells = [
        (g, column, part, part.accuracy)
        for g, group in enumerate(groups)
        for column, part in enumerate(group.parts.length[i] for i in used)
        if part.accuracy is not None
    ]
    values = [100 * value for *_, accuracy in cells for value in (accuracy.low, accuracy.high)] or [0.0, 100.0]
    y = svg.Scale(*svg.padded(values), svg.HEIGHT - 44, 26)
    column_width = (width - 60) / max(len(used), 1)
    parts = []
    for tick in y.ticks():
        parts += [
            svg.line(46, y(tick), width - 12, y(tick), "grid"),
            svg.text(40, y(tick) + 4, f"{tick:.4g}", "tick", "end"),
        ]
    for column, i in enumerate(used):
        centre = 46 + column_width * (column + 0.5)
        parts.append(svg.text(centre, svg.HEIGHT - 27, labels[i], "tick", "middle"))
    gap = min(16.0, column_width * 0.8 / len(groups))
    for g, column, part, accuracy in cells:
        centre = 46 + column_width * (column + 0.5) + gap * (g - (len(groups) - 1) / 2)
        tip = f"{groups[g].name}, {part.name} tokens: {100 * accuracy.mean:.2f} % of {part.num_documents:,} documents"
        interval = svg.line(centre, y(100 * accuracy.low), centre, y(100 * accuracy.high), "interval thin")
        parts.append(f'<g class="{svg.colour(g)}">{interval}</g>')
        parts.append(svg.marker(centre, y(100 * accuracy.mean), g, tip))
    parts += [
        svg.text(4, 14, "test accuracy %", "title"),
        svg.text((46 + width - 12) / 2, svg.HEIGHT - 9, "tokens", "title", "middle"),
    ]
    name = "narrow" if width == NARROW else "wide"
    return svg.figure(
        width, svg.HEIGHT, "Accuracy by document length; the figures are in the table below.", parts, name
    )
