"""Draw SVG elements as strings: scales, lines, texts and markers.

Colours are CSS classes (`s0` to `s7` for groups), so the same drawing works in light mode, dark mode and print.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

NUM_COLOURS = 8
WIDTH, HEIGHT = 400, 270  # size of a panel
MARKERS = (
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0Z",
    "M-3.8 -3.8H3.8V3.8H-3.8Z",
    "M0 -5L4.7 3.6H-4.7Z",
    "M0 -5.3L5.3 0L0 5.3L-5.3 0Z",
    "M0 5L4.7 -3.6H-4.7Z",
    "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M0 -5.2L4.9 -1.6L3 4.2H-3L-4.9 -1.6Z",
    "M-5 -2.4H5V2.4H-5Z",
)


@dataclass(frozen=True)
class Scale:
    """A mapping from data to drawing units, linear or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.stop - self.start), 1)


def figure(width: float, height: float, label: str, parts: Sequence[str], name: str = "") -> str:
    """Return a complete drawing. `label` is the text alternative for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure {name}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def standalone(drawing: str) -> str:
    """Return the drawing as an SVG file with embedded styles and a background."""
    opening, rest = drawing.split(">", 1)
    style = files("imdbcls.comparison.views").joinpath("figures.css").read_text(encoding="utf-8")
    return f'{opening}><style>{style}</style><rect width="100%" height="100%" fill="var(--paper)"/>{rest}\n'


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def box(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect class="{name}" x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}"/>'


def text(x: float, y: float, content: str, name: str = "label", anchor: str = "start") -> str:
    return f'<text class="{name}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(content)}</text>'


def vertical_text(x: float, y: float, content: str) -> str:
    """Return the title of a vertical axis. The text reads from bottom to top."""
    place = f'transform="translate({x:g} {y:g}) rotate(-90)"'
    return f'<text class="title" {place} text-anchor="middle">{html.escape(content)}</text>'


def path(points: Sequence[tuple[float, float]], name: str, close: bool = False) -> str:
    steps = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="{name}" d="M{steps}{"Z" if close else ""}"/>'


def marker(x: float, y: float, series: int, tip: str) -> str:
    """Return the mark of a group in its colour and shape, with `tip` as its tooltip."""
    place = f"translate({x:g} {y:g})"
    return f'<path class="mark {colour(series)}" transform="{place}" d="{shape(series)}">{tooltip(tip)}</path>'


def tooltip(content: str) -> str:
    return f"<title>{html.escape(content)}</title>"


def colour(series: int) -> str:
    return f"s{series % NUM_COLOURS}"


def shape(series: int) -> str:
    return MARKERS[series % len(MARKERS)]
