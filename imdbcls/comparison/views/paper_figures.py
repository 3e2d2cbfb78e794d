"""Draw the figures of a comparison with matplotlib as PDF and PNG, sized for a column of a paper.

Identical figures give byte-identical files. The user's matplotlib settings are ignored.
"""

import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.figure_types import (
    Axis,
    CostPlane,
    CurvePlot,
    Figure,
    IntervalPlot,
    LengthPlot,
    ReliabilityPlot,
)
from imdbcls.comparison.views.figures import short_name
from imdbcls.comparison.views.label_placement import Box, points_along, spot_for_label
from imdbcls.comparison.views.quantities import compact
from imdbcls.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

logger = logging.getLogger(__name__)

WIDTH = 3.3  # inches: one column
DPI = 300
FONT_SIZE = 7.0  # points
UNIT = FONT_SIZE / 12.5  # points per unit of the page's SVG drawings; labels are placed in these units
# Okabe and Ito (2008), "Color universal design", with grey instead of yellow, which is faint on paper.
# Marker shapes also differ, so no figure relies only on colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A")
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)))  # the style changes after every eight groups
VERDICTS = {
    Outcome.BETTER: ("#009E73", "o", "better"),
    Outcome.BETTER_HERE: ("#009E73", "^", "better in these runs"),
    Outcome.EQUIVALENT: ("#0072B2", "s", "equivalent"),
    Outcome.UNDECIDED: ("#D55E00", "D", "undecided"),
    Outcome.UNTESTED: ("#7A7A7A", "X", "not tested"),
}
GREY, LIGHT, DARK = "#BBBBBB", "#E6E6E6", "#444444"
SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType, because many journals do not accept matplotlib's default, Type 3
    "text.parse_math": False,  # a name may contain a dollar sign
    "font.family": "DejaVu Sans",  # shipped with matplotlib
    "font.size": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.edgecolor": DARK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.2,
}
ROW_HEIGHT = 0.19  # inches per interval
DOTS_ABOVE = 0.38  # in units of the y axis: distance of the seeds from their interval
MAX_HEIGHT = 100.0  # inches
MAX_LABEL = 24  # characters; if a label is longer, all labels are placed above their intervals
MAX_LABELLED = 12  # marks; if a cost plane has more, a label must fit and its mark must be on the Pareto front


def require_matplotlib() -> None:
    """Raise UserError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("--figures needs matplotlib: pip install matplotlib.") from error


def paper_figures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return the contents of the PDF and PNG files, keyed by file name. All reliability plots share one figure.

    Raise UserError if matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    reliability = [figure for figure in figures.values() if isinstance(figure, ReliabilityPlot)]
    plots: dict[str, Figure | list[ReliabilityPlot]] = {
        name: figure for name, figure in figures.items() if not isinstance(figure, ReliabilityPlot)
    }
    if reliability:
        plots["reliability"] = reliability
    files = {}
    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        for name, plot in plots.items():
            canvas = drawn(plot)
            files[f"{name}.pdf"] = saved(canvas, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})
            files[f"{name}.png"] = saved(canvas, "png", {"Software": None})
    if any("missing from font" in str(warning.message) for warning in caught):
        logger.warning(
            f"the PDF and PNG figures show boxes for characters that the font {SETTINGS['font.family']} does not "
            "contain."
        )
    return files


def saved(canvas: "Canvas", file_format: str, metadata: dict[str, None]) -> bytes:
    """Return the contents of a file. The keys of `metadata` are entries to omit: they contain dates or versions."""
    file = io.BytesIO()
    canvas.savefig(file, format=file_format, dpi=DPI, metadata=metadata)
    return file.getvalue()


def drawn(plot: Figure | list[ReliabilityPlot]) -> "Canvas":
    match plot:
        case IntervalPlot():
            return interval_figure(plot)
        case CurvePlot():
            return curve_figure(plot)
        case CostPlane():
            return cost_figure(plot)
        case LengthPlot():
            return length_figure(plot)
        case ReliabilityPlot():
            return reliability_figure([plot])
        case _:
            return reliability_figure(plot)


def empty(height: float) -> "Canvas":
    """Return an empty figure as wide as a column of a paper and `height` inches high (at most `MAX_HEIGHT`)."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(WIDTH, min(height, MAX_HEIGHT)), layout="constrained")


def set_axis(axis: Any, described: Axis, count: int, label: Any = "{:.4g}".format) -> None:
    """Set the ticks and the title of a matplotlib axis. `count` is the approximate number of ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = described.ticks(count)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([label(tick) for tick in ticks])
    axis.set_label_text(described.title)


def style(group: int) -> dict[str, Any]:
    """Return the colour, marker and line style of a group."""
    return {
        "color": COLOURS[group % len(COLOURS)],
        "marker": MARKERS[group % len(MARKERS)],
        "linestyle": LINES[group // len(COLOURS) % len(LINES)],
        "markersize": 4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
        "linewidth": 1.2,
    }


def legend_below(canvas: "Canvas", handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend below the axes, in as many columns as fit. Make the figure taller by the height of the legend."""
    width = 0.4 + 0.055 * max(len(name) for name in names)
    num_columns = max(1, min(len(names), int(WIDTH / width)))
    canvas.legend(handles, names, loc="outside lower center", ncols=num_columns)
    canvas.set_figheight(canvas.get_figheight() + 0.15 * math.ceil(len(names) / num_columns))


def interval_figure(plot: IntervalPlot) -> "Canvas":
    """Draw each interval, its value and a dot per seed. A plot of differences also has a zero line and a legend."""
    from matplotlib.lines import Line2D

    above = max(len(row.label) for row in plot.rows) > MAX_LABEL
    step = 2.0 if above else 1.0
    title = "\n".join([plot.x.title, *plot.notes])
    canvas = empty(0.45 + 0.12 * len(plot.notes) + ROW_HEIGHT * step * max(len(plot.rows), 2))
    axes = canvas.add_subplot()
    axes.set_xlim(plot.x.low, plot.x.high)
    axes.set_ylim(step * len(plot.rows) - 0.5, -0.8 if above else -0.6)
    set_axis(axes.xaxis, plot.x, 5)
    axes.set_xlabel(title)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    if plot.reference is not None:
        value, name = plot.reference
        axes.axvline(value, color=DARK, linewidth=0.7, linestyle=(0, (2, 2)))
        is_left = value < (plot.x.low + plot.x.high) / 2
        axes.annotate(
            name,
            (value, 0.01),
            xycoords=("data", "axes fraction"),
            xytext=(2 if is_left else -2, 0),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="bottom",
            color=DARK,
        )
    if plot.margin is not None:
        axes.axvspan(-plot.margin, plot.margin, color="#0072B2", alpha=0.1, linewidth=0)
        axes.axvline(0, color="black", linewidth=0.7)
    for i, row in enumerate(plot.rows):
        y = step * i + (0.6 if above else 0)
        colour, marker = interval_style(row.series)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.4, solid_capstyle="round")
        edge: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.5}
        seeds: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 0.7}
        axes.plot(row.dots, [y - DOTS_ABOVE] * len(row.dots), "o", markersize=2.6, **seeds)
        axes.plot(row.value, y, marker, markersize=5, **edge)
        if above:
            axes.annotate(short_name(row.label, 44), (0, y - 0.75), xycoords=("axes fraction", "data"), va="center")
    labels = [] if above else [row.label for row in plot.rows]
    axes.set_yticks([] if above else range(len(plot.rows)), labels)
    axes.tick_params(axis="y", length=0)
    verdicts = [outcome for outcome in VERDICTS if any(row.series is outcome for row in plot.rows)]
    if verdicts:
        handles = [Line2D([], [], color=VERDICTS[each][0], marker=VERDICTS[each][1], markersize=4) for each in verdicts]
        legend_below(canvas, handles, [VERDICTS[each][2] for each in verdicts])
    return canvas


def interval_style(series: int | Outcome) -> tuple[str, str]:
    """Return the colour and marker of an interval.

    `series` is the index of a group or the verdict on a pair. Groups share a marker, because each has its own row.
    """
    if isinstance(series, int):
        return COLOURS[series % len(COLOURS)], "o"
    colour, marker, _ = VERDICTS[series]
    return colour, marker


def curve_figure(plot: CurvePlot) -> "Canvas":
    """Draw the mean over seeds with the band or intervals of the plot.

    Dashed lines show the same metric on the training batches. Rings mark the best epochs.
    """
    canvas = empty(2.1)
    axes = canvas.add_subplot()
    handles = []
    for i, curve in enumerate(plot.training):
        line = {**style(i), "marker": "", "linestyle": (0, (3, 2)), "linewidth": 0.9, "alpha": 0.8}
        axes.plot([point.epoch for point in curve], [point.mean for point in curve], **line)
    for i, curve in enumerate(plot.curves):
        epochs = [plot.place(i, point.epoch) for point in curve]
        lows, highs = [point.low for point in curve], [point.high for point in curve]
        if plot.has_intervals:
            axes.vlines(epochs, lows, highs, color=style(i)["color"], linewidth=0.9)
        else:
            axes.fill_between(epochs, lows, highs, color=style(i)["color"], alpha=0.14, linewidth=0)
        line = style(i) if plot.has_marks(curve) else {**style(i), "marker": ""}
        handles += axes.plot(epochs, [point.mean for point in curve], **line, zorder=3)
        ring: dict[str, Any] = {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 0.8}
        bests = plot.best[i]
        axes.plot([b.epoch for b in bests], [b.value for b in bests], "o", **ring, markeredgecolor=style(i)["color"])
    set_ranges(axes, plot)
    legend_below(canvas, handles, [short_name(name, 38) for name in plot.names])
    return canvas


def set_ranges(axes: "Axes", plot: CurvePlot | CostPlane) -> None:
    axes.set_xscale("log" if plot.x.log else "linear")  # must come first, because set_xscale resets the ticks
    set_axis(axes.xaxis, plot.x, 5, compact)
    set_axis(axes.yaxis, plot.y, 5)
    # Padding, so that the marks at the first and last epoch are not clipped.
    padding = 0.02 * (1 if plot.x.log else plot.x.high - plot.x.low) if isinstance(plot, CurvePlot) else 0
    if plot.x.log:
        axes.set_xlim(plot.x.low / (1 + padding), plot.x.high * (1 + padding))
    else:
        axes.set_xlim(plot.x.low - padding, plot.x.high + padding)
    axes.set_ylim(plot.y.low, plot.y.high)
    axes.grid(axis="y")


def cost_figure(plot: CostPlane) -> "Canvas":
    """Draw the Pareto front, the marks, and labels that avoid both if there is room."""
    canvas = empty(2.3)
    axes = canvas.add_subplot()
    set_ranges(axes, plot)
    front = plot.front_line
    axes.plot([x for x, _ in front], [y for _, y in front], color=DARK, linewidth=0.8, linestyle=(0, (4, 3)))
    for point in plot.points:
        spread: dict[str, Any] = {"color": style(point.group)["color"], "linewidth": 0.9}
        axes.plot(point.costs, [point.value, point.value], **spread)
        axes.plot([point.cost, point.cost], point.values, **spread)
        axes.plot(point.cost, point.value, **{**style(point.group), "markersize": 5}, zorder=3)
    canvas.draw_without_rendering()  # compute the layout, because the labels need the final positions of the marks
    # Labels are placed in SVG units, in which y increases downwards. In matplotlib's pixels, y increases upwards.
    width, height = WIDTH * 72 / UNIT, canvas.get_figheight() * 72 / UNIT
    units = 72 / canvas.dpi / UNIT  # per pixel

    def place(cost: float, accuracy: float) -> tuple[float, float]:
        x, y = axes.transData.transform((cost, accuracy))
        return x * units, height - y * units

    area = axes.get_window_extent()
    inside = Box(area.x0 * units + 6, height - area.y1 * units, area.x1 * units, height - area.y0 * units - 4)
    taken = [place(point.cost, point.value) for point in plot.points]
    taken += points_along([place(*corner) for corner in front])
    for point in plot.points:
        if len(plot.points) > MAX_LABELLED and point.name not in plot.front:
            continue
        label = short_name(point.name, 24)
        spot, is_free = spot_for_label(*place(point.cost, point.value), 7.0 * len(label), inside, taken)
        if len(plot.points) > MAX_LABELLED and not is_free:
            continue
        alignment = {"start": "left", "middle": "center", "end": "right"}[spot.anchor]
        text = canvas.text(spot.x / width, 1 - spot.y / height, label, ha=alignment, va="baseline")
        text.set_in_layout(False)
    return canvas


def length_figure(plot: LengthPlot) -> "Canvas":
    """Draw the accuracies with their intervals. In each range of lengths, the groups are side by side."""
    canvas = empty(2.2)
    axes = canvas.add_subplot()
    gap = 0.8 / plot.num_groups
    handles: dict[int, Any] = {}
    names: dict[int, str] = {}
    for cell in plot.cells:
        x = cell.column + gap * (cell.group - (plot.num_groups - 1) / 2)
        mark = {**style(cell.group), "linestyle": ""}
        if plot.num_groups > len(COLOURS):
            mark |= {"markersize": 2.4, "markeredgewidth": 0}
        axes.plot([x, x], [cell.low, cell.high], color=mark["color"], linewidth=0.9)
        (handles[cell.group],) = axes.plot(x, cell.value, **mark, zorder=3)
        names[cell.group] = short_name(cell.name, 38)
    set_axis(axes.yaxis, plot.y, 5)
    axes.set_ylim(plot.y.low, plot.y.high)
    axes.set_xlim(-0.5, max(len(plot.columns), 1) - 0.5)
    axes.set_xticks(range(len(plot.columns)), plot.columns)
    axes.set_xlabel("tokens")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    if handles:
        legend_below(canvas, list(handles.values()), list(names.values()))
    return canvas


def reliability_figure(plots: Sequence[ReliabilityPlot]) -> "Canvas":
    """Draw a panel per group: its curve in colour, the other curves in grey, and bars for the share of predictions."""
    num_columns = min(2, len(plots))
    num_rows = math.ceil(len(plots) / num_columns)
    canvas = empty(1.75 * num_rows + 0.15)
    grid = canvas.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for axes, plot in zip(grid.flat, plots, strict=False):
        low = plot.axis.low
        bins = plot.groups[plot.group].reliability
        heights = [(1 - low) * point.share for point in bins]
        axes.bar([p.confidence for p in bins], heights, 0.07 * (1 - low), bottom=low, color=LIGHT)
        axes.plot([low, 1], [low, 1], color=DARK, linewidth=0.7, linestyle=(0, (2, 2)))
        for i in plot.order:
            curve = plot.groups[i].reliability
            line = {"color": GREY, "linewidth": 0.6} if i != plot.group else {**style(i), "markersize": 3}
            axes.plot([p.confidence for p in curve], [p.accuracy for p in curve], **line)
        set_axis(axes.xaxis, plot.axis, 4, "{:g}".format)
        set_axis(axes.yaxis, plot.axis, 4, "{:g}".format)
        axes.set(xlim=(low, 1.01), ylim=(low, 1.01), xlabel="", ylabel="")
        axes.set_title(short_name(plot.name, 30), fontsize=FONT_SIZE)
    for axes in grid.flat[len(plots) :]:
        axes.set_visible(False)
        grid[-2, -1].tick_params(labelbottom=True)  # the panel above the empty cell needs its own tick labels
    canvas.supxlabel(plots[0].axis.title, fontsize=FONT_SIZE)
    canvas.supylabel("accuracy", fontsize=FONT_SIZE)
    return canvas
