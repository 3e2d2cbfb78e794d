"""Draw the figures of a comparison as SVG for the page. Narrow drawings fit the screen of a phone."""

import re
from collections.abc import Mapping

from imdbcls.comparison.views import svg
from imdbcls.comparison.views.figure_types import (
    Axis,
    CostPlane,
    CostPoint,
    CurvePlot,
    Figure,
    Interval,
    IntervalPlot,
    LengthPlot,
    ReliabilityPlot,
)
from imdbcls.comparison.views.figures import short_name
from imdbcls.comparison.views.label_placement import Box, points_along, spot_for_label
from imdbcls.comparison.views.quantities import compact

WIDE, NARROW = 960, 360
MAX_LABELLED = 12  # marks; if a cost plane has more, only the marks on the Pareto front get labels


def drawings_of(figures: Mapping[str, Figure]) -> dict[str, str]:
    """Return the drawings, keyed by name. Some figures have a second drawing, `<name>_narrow`, for narrow screens."""
    drawings = {}
    for name, figure in figures.items():
        match figure:
            case IntervalPlot():
                drawings[name] = interval_drawing(figure, WIDE)
                drawings[f"{name}_narrow"] = interval_drawing(figure, NARROW)
            case CurvePlot():
                drawings[name] = curve_drawing(figure)
            case CostPlane():
                drawings[name] = cost_drawing(figure)
            case ReliabilityPlot():
                drawings[name] = reliability_drawing(figure)
            case LengthPlot():
                drawings[name] = length_drawing(figure, WIDE)
                drawings[f"{name}_narrow"] = length_drawing(figure, NARROW)
    return drawings


def scale(axis: Axis, start: float, stop: float) -> svg.Scale:
    return svg.Scale(axis.low, axis.high, start, stop, axis.log)


def panel_axes(plot: CurvePlot | CostPlane, x: svg.Scale, y: svg.Scale) -> str:
    """Draw gridlines at the y ticks, the tick labels of both axes, and the titles."""
    parts = []
    for value in plot.y.ticks():
        parts.append(svg.line(x.start, y(value), x.stop, y(value), "grid"))
        parts.append(svg.text(x.start - 6, y(value) + 4, f"{value:.4g}", "tick", "end"))
    for value in plot.x.ticks():
        label = compact(value)
        parts.append(svg.line(x(value), y.start, x(value), y.start + 4, "rule"))
        parts.append(svg.text(x(value), y.start + 17, label, "tick", "middle"))
    parts.append(svg.line(x.start, y.start, x.stop, y.start, "rule"))
    parts.append(svg.text((x.start + x.stop) / 2, y.start + 35, plot.x.title, "title", "middle"))
    if isinstance(plot, CostPlane):
        parts.append(svg.text(4, 14, plot.title, "label strong"))
    else:
        parts.append(svg.text(4, 14, plot.y.title, "title"))
    return "".join(parts)


def interval_drawing(plot: IntervalPlot, width: int) -> str:
    """Draw the interval and mean of each row, with its seeds above as open circles. A margin adds a band around zero.

    In narrow drawings, the label of a row is above its interval.
    """
    narrow, has_dots = width == NARROW, any(row.dots for row in plot.rows)
    label_width = 12 + 7 * min(38, max(len(row.label) for row in plot.rows))
    left, right = (8, width - 8) if narrow else (label_width, width - 8)
    step, top = (44 + 8 * has_dots if narrow else 30 + 4 * has_dots), (8 if narrow else 10)
    x = scale(plot.x, left, right)
    bottom = top + step * len(plot.rows) + 4
    parts = []
    if plot.margin is not None:
        parts.append(svg.box(x(-plot.margin), top, x(plot.margin) - x(-plot.margin), bottom - top, "band"))
    for tick in plot.x.ticks(5 if narrow else 8):
        parts.append(svg.line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 15, f"{tick:.4g}", "tick", "middle"))
    if plot.margin is not None:
        parts.append(svg.line(x(0), top, x(0), bottom, "zero"))
    if plot.reference is not None:
        value, name = plot.reference
        parts.append(
            f"<g>{svg.tooltip(f'{name}: {value:.4g}')}{svg.line(x(value), top, x(value), bottom, 'ideal')}</g>"
        )
        anchor = "start" if x(value) < (left + right) / 2 else "end"
        parts.append(svg.text(x(value) + (4 if anchor == "start" else -4), bottom - 3, name, "title halo", anchor))
    for i, row in enumerate(plot.rows):
        y = top + step * i + (32 if narrow else 17) + (8 if narrow else 3) * has_dots
        label = short_name(row.label, 38)
        parts.append(svg.text(8, top + step * i + 19, label) if narrow else svg.text(2, y + 4, label))
        parts.append(f'<g class="{css_class(row)}">{svg.tooltip(row.tip)}')
        parts.append(svg.line(x(row.low), y, x(row.high), y, "interval"))
        parts += [f'<circle class="seed" cx="{x(dot):g}" cy="{y - 9:g}" r="3.2"/>' for dot in row.dots]
        parts.append(f'<circle class="mean" cx="{x(row.value):g}" cy="{y:g}" r="5"/></g>')
    parts.append(svg.text((left + right) / 2, bottom + 34, plot.x.title, "title", "middle"))
    notes = plot.notes if narrow else ["; ".join(plot.notes)]
    for i, note in enumerate(notes):
        parts.append(svg.text((left + right) / 2, bottom + 51 + 16 * i, note, "tick", "middle"))
    ends = "; ".join(f"{row.label}: {row.value:.4g}, {row.low:.4g} to {row.high:.4g}" for row in plot.rows)
    label = f"{plot.x.title}; {'; '.join(plot.notes)}. {ends}"
    return svg.figure(width, bottom + 43 + 16 * len(notes), label, parts, "narrow" if narrow else "wide")


def css_class(row: Interval) -> str:
    return svg.colour(row.series) if isinstance(row.series, int) else f"verdict-{row.series}"


def curve_drawing(plot: CurvePlot) -> str:
    unit = plot.x.title.split(",")[0]
    x = scale(plot.x, 46, svg.WIDTH - 12)
    y = scale(plot.y, svg.HEIGHT - 44, 26)
    parts = [panel_axes(plot, x, y)]
    for i, curve in enumerate(plot.curves):
        upper = [(x(plot.place(i, p.epoch)), y(p.high)) for p in curve]
        lower = [(x(plot.place(i, p.epoch)), y(p.low)) for p in curve]
        if plot.has_intervals:
            drawn = [svg.line(*low, *high, "interval thin") for low, high in zip(lower, upper, strict=True)]
            parts.append(f'<g class="{svg.colour(i)}">{"".join(drawn)}</g>')
        elif len(curve) > 1:
            parts.append(svg.path([*upper, *lower[::-1]], f"spread {svg.colour(i)}", close=True))
    for i, curve in enumerate(plot.training):
        if len(curve) > 1:
            parts.append(svg.path([(x(p.epoch), y(p.mean)) for p in curve], f"curve training {svg.colour(i)}"))
    for i, (name, curve) in enumerate(zip(plot.names, plot.curves, strict=True)):
        middle = [(x(plot.place(i, p.epoch)), y(p.mean)) for p in curve]
        if len(curve) > 1:
            parts.append(svg.path(middle, f"curve {svg.colour(i)}"))
        for place, point in zip(middle, curve, strict=True) if plot.has_marks(curve) else []:
            parts.append(svg.marker(*place, i, f"{name}, {compact(point.epoch)} {unit}: {point.mean:.4g}"))
        for best in plot.best[i]:
            tip = svg.tooltip(f"{name}: best epoch of {best.num_seeds} of {plot.num_seeds[i]} seeds")
            ring = f'<circle class="best {svg.colour(i)}" cx="{x(best.epoch):g}" cy="{y(best.value):g}" r="8">'
            parts.append(f"{ring}{tip}</circle>")
    ends = [
        f"{name} ends at {curve[-1].mean:.4g}" for name, curve in zip(plot.names, plot.curves, strict=True) if curve
    ]
    label = f"Curves of {plot.y.title} over {plot.x.title}. {'; '.join(ends)}."
    return svg.figure(svg.WIDTH, svg.HEIGHT, label, parts)


def cost_drawing(plot: CostPlane) -> str:
    """Draw the Pareto front, the marks, and labels that avoid both if there is room."""
    x = scale(plot.x, 46, svg.WIDTH - 14)
    y = scale(plot.y, svg.HEIGHT - 44, 26)
    parts = [panel_axes(plot, x, y)]
    front = [(x(cost), y(value)) for cost, value in plot.front_line]
    if len(front) > 1:
        parts.append(svg.path(front, "front"))
    taken = [(x(point.cost), y(point.value)) for point in plot.points] + points_along(front)
    is_crowded = len(plot.points) > MAX_LABELLED
    for point in plot.points:
        centre = x(point.cost), y(point.value)
        for ends in seed_lines(point):
            (x1, y1), (x2, y2) = places = [(x(cost), y(value)) for cost, value in ends]
            taken += [place for place in [*places, *points_along(places)] if place != centre]
            drawn = svg.line(x1, y1, x2, y2, "interval thin")
            parts.append(f'<g class="{svg.colour(point.group)}">{drawn}</g>')
    inside = Box(54, 24, svg.WIDTH - 2, svg.HEIGHT - 46)
    for point in plot.points:
        place, label = (x(point.cost), y(point.value)), short_name(point.name, 20)
        tip = f"{point.name}: {point.value:.4g}, {compact(point.cost)} (seeds: {seed_range(point)})"
        parts.append(svg.marker(*place, point.group, tip))
        if is_crowded and point.name not in plot.front:
            continue
        spot, _ = spot_for_label(*place, 7.0 * len(label), inside, taken)
        parts.append(svg.text(spot.x, spot.y, label, "label", spot.anchor))
    listed = "; ".join(f"{point.name}: {point.value:.4g} at {compact(point.cost)}" for point in plot.points)
    label = f"{plot.title}, {plot.x.title}. {listed}. On the Pareto front: {', '.join(plot.front)}."
    return svg.figure(svg.WIDTH, svg.HEIGHT, label, parts)


def seed_lines(point: CostPoint) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...]:
    """Return two lines through the mark of a group: one spans the costs of the seeds, and one spans their metrics."""
    (low_cost, high_cost), (low, high) = point.costs, point.values
    return ((low_cost, point.value), (high_cost, point.value)), ((point.cost, low), (point.cost, high))


def seed_range(point: CostPoint) -> str:
    values, costs = (" to ".join(ends) for ends in (map("{:.4g}".format, point.values), map(compact, point.costs)))
    return f"{values}, {costs}"


def reliability_drawing(plot: ReliabilityPlot) -> str:
    """Draw the curve of one group in its colour and all other curves in grey. Bars show the share of each bin."""
    size, left, bottom = 320, 42, 280
    low, bins = plot.axis.low, plot.groups[plot.group].reliability
    x, y = scale(plot.axis, left, size - 8), scale(plot.axis, bottom, 20)
    parts = [svg.text(4, 12, short_name(plot.name, 40), "label strong")]
    parts.append(svg.vertical_text(11, (20 + bottom) / 2, "accuracy"))
    for tick in plot.axis.ticks(4):
        parts += [
            svg.line(left, y(tick), size - 8, y(tick), "grid"),
            svg.text(left - 5, y(tick) + 4, f"{tick:g}", "tick", "end"),
        ]
        parts.append(svg.text(x(tick), bottom + 15, f"{tick:g}", "tick", "middle"))
    for point in bins:
        height = point.share * (bottom - 20)
        parts.append(svg.box(x(point.confidence) - 6, bottom - height, 12, height, "share"))
    parts.append(svg.line(x(low), y(low), x(1), y(1), "ideal"))
    for i in plot.order:
        points = [(x(p.confidence), y(p.accuracy)) for p in plot.groups[i].reliability]
        parts.append(svg.path(points, f"curve {svg.colour(i)}" if i == plot.group else "behind"))
    for point in bins:
        share = f"{100 * point.share:.1f} % of predictions"
        tip = f"confidence {point.confidence:.2f}: accuracy {point.accuracy:.2f} ({share})"
        spot = x(point.confidence), y(point.accuracy)
        dot = f'<circle class="dot {svg.colour(plot.group)}" cx="{spot[0]:g}" cy="{spot[1]:g}" r="2.8">'
        parts.append(f"{dot}{svg.tooltip(tip)}</circle>")
    parts.append(svg.text((left + size - 8) / 2, bottom + 32, plot.axis.title, "title", "middle"))
    label = f"Reliability of {plot.name}: accuracy by confidence; ECE {plot.ece:.4f}."
    return svg.figure(size, bottom + 38, label, parts, "small")


def length_drawing(plot: LengthPlot, width: int) -> str:
    labels = [re.sub(r"^\d+-", "≤ ", name) for name in plot.columns] if width == NARROW else plot.columns
    y = scale(plot.y, svg.HEIGHT - 44, 26)
    column_width = (width - 60) / max(len(plot.columns), 1)
    parts = []
    for tick in plot.y.ticks():
        parts += [
            svg.line(46, y(tick), width - 12, y(tick), "grid"),
            svg.text(40, y(tick) + 4, f"{tick:.4g}", "tick", "end"),
        ]
    for column, label in enumerate(labels):
        parts.append(svg.text(46 + column_width * (column + 0.5), svg.HEIGHT - 27, label, "tick", "middle"))
    gap = min(16.0, column_width * 0.8 / plot.num_groups)
    for cell in plot.cells:
        centre = 46 + column_width * (cell.column + 0.5) + gap * (cell.group - (plot.num_groups - 1) / 2)
        tip = f"{cell.name}, {cell.part.name} tokens: {cell.value:.2f} % of {cell.part.num_documents:,} documents"
        interval = svg.line(centre, y(cell.low), centre, y(cell.high), "interval thin")
        parts.append(f'<g class="{svg.colour(cell.group)}">{interval}</g>')
        parts.append(svg.marker(centre, y(cell.value), cell.group, tip))
    parts += [
        svg.text(4, 14, plot.y.title, "title"),
        svg.text((46 + width - 12) / 2, svg.HEIGHT - 9, "tokens", "title", "middle"),
    ]
    name = "narrow" if width == NARROW else "wide"
    label = "Accuracy by document length; the values are in a table of the page."
    return svg.figure(width, svg.HEIGHT, label, parts, name)
