"""The kinds of figures of a comparison: their data, axes and labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from imdbcls.comparison.results import CurvePoint, GroupSummary, PartAccuracy
from imdbcls.comparison.verdicts import Outcome

INTERVAL_SHIFT = 1.04  # factor between the x positions of neighbouring curves with intervals (logarithmic axis)
MAX_MARKS = 12  # a curve with more points has no markers


@dataclass(frozen=True)
class Axis:
    """The range and title of one axis."""

    title: str
    low: float
    high: float
    log: bool = False
    whole: bool = False  # ticks are whole numbers
    at: tuple[float, ...] = ()  # positions of the ticks; empty: round values

    def ticks(self, count: int = 5) -> list[float]:
        """Return the positions of the ticks: those in `at`, or about `count` round values in the range."""
        if self.at:
            return list(self.at)
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            marks = [m * 10.0**power for power in powers for m in (1, 3)]
            inside = [mark for mark in marks if self.low <= mark <= self.high]
            return inside[:: max(1, math.ceil(len(inside) / (count + 1)))]
        step = nice_step((self.high - self.low) / max(count, 1))
        if self.whole:
            step = max(1, math.ceil(step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot."""

    label: str
    value: float
    low: float
    high: float
    dots: tuple[float, ...]  # one value per seed
    series: int | Outcome  # determines the colour: the index of a group, or a verdict
    tip: str  # tooltip


@dataclass(frozen=True)
class IntervalPlot:
    """Values with their intervals, one per row. With a margin, the values are differences, plotted around zero."""

    rows: tuple[Interval, ...]
    x: Axis
    margin: float | None  # equivalence margin; 0: equivalence is not tested; None: not a plot of differences
    notes: tuple[str, ...]  # lines that explain the intervals, below the axis title
    reference: tuple[float, str] | None = None  # a value to compare with, and its name


@dataclass(frozen=True)
class BestEpoch:
    """An epoch that is the best epoch of at least one seed of a group."""

    epoch: float
    value: float  # value of the group's curve at this epoch
    num_seeds: int


@dataclass(frozen=True)
class CurvePlot:
    """Curves of means over seeds. Curves by epoch have a band from the lowest to the highest value.

    Curves by training size have intervals instead. The curves of a tuning study are expected values with a band of one
    standard deviation.
    """

    names: tuple[str, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]  # one per group; a curve is empty if no run logged the metric
    training: tuple[tuple[CurvePoint, ...], ...]  # the same metric on the training batches; empty: not shown
    best: tuple[tuple[BestEpoch, ...], ...]  # one tuple per group
    num_seeds: tuple[int, ...]  # seeds of each group
    x: Axis
    y: Axis
    has_intervals: bool = False  # draw the low and high values as intervals side by side, not as bands

    def place(self, curve: int, position: float) -> float:
        """Return the x value at which a point is drawn. The intervals of different curves are shifted apart."""
        if not self.has_intervals:
            return position
        return position * INTERVAL_SHIFT ** (curve - (len(self.curves) - 1) / 2)

    @staticmethod
    def has_marks(curve: Sequence[CurvePoint]) -> bool:
        """Return whether each point is drawn with a marker. A curve with many points is drawn without markers."""
        return len(curve) <= MAX_MARKS


@dataclass(frozen=True)
class CostPoint:
    """The mean cost and the mean metric of one group, each with its lowest and highest value over seeds."""

    group: int
    name: str
    cost: float
    value: float
    costs: tuple[float, float]  # lowest and highest
    values: tuple[float, float]


@dataclass(frozen=True)
class CostPlane:
    """The metric plotted against a cost, with the Pareto front."""

    title: str
    points: tuple[CostPoint, ...]
    front: tuple[str, ...]  # names of the groups on the Pareto front
    x: Axis
    y: Axis

    @property
    def front_line(self) -> list[tuple[float, float]]:
        """The corners of the Pareto front as (cost, value). The front is drawn as a step function."""
        on_front = sorted((point.cost, point.value) for point in self.points if point.name in self.front)
        corners = [corner for (_, y1), (x2, y2) in pairwise(on_front) for corner in ((x2, y1), (x2, y2))]
        return [*on_front[:1], *corners]


@dataclass(frozen=True)
class ReliabilityPlot:
    """Accuracy of one group as a function of its confidence, with the other groups in the background."""

    group: int
    groups: Sequence[GroupSummary]
    axis: Axis  # for both x and y

    @property
    def name(self) -> str:
        return self.groups[self.group].name

    @property
    def order(self) -> list[int]:
        """Group indices in drawing order. `group` is drawn last, on top of the others."""
        return [*(i for i in range(len(self.groups)) if i != self.group), self.group]

    @property
    def ece(self) -> float:
        calibration = self.groups[self.group].calibration
        assert calibration is not None  # figures_of leaves out groups without probabilities
        return calibration.mean


@dataclass(frozen=True)
class LengthCell:
    """Accuracy of one group on the documents in one range of lengths."""

    group: int
    name: str
    column: int
    part: PartAccuracy
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LengthPlot:
    """Accuracy by document length. In each range of lengths, the groups are side by side."""

    num_groups: int
    columns: tuple[str, ...]  # ranges of tokens
    cells: tuple[LengthCell, ...]
    y: Axis


Figure = IntervalPlot | CurvePlot | CostPlane | ReliabilityPlot | LengthPlot


def nice_step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Return the range of the values, extended on each side by the fraction `share` of its length.

    If all values are equal, extend the range by the fraction `share` of the value, or by 1 if the value is 0.
    """
    low, high = min(values), max(values)
    padding = (high - low) * share or abs(high) * share or 1.0
    return low - padding, high + padding
