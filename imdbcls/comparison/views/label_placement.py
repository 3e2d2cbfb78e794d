"""Place labels next to marks. If there is room, a label covers no other label, mark or line.

x increases rightwards, y downwards.
"""

from itertools import pairwise
from typing import NamedTuple


class Box(NamedTuple):
    """The area in which labels must fit."""

    left: float
    top: float
    right: float
    bottom: float


class Spot(NamedTuple):
    """A position for a label: the start, middle or end of its baseline, depending on `anchor`."""

    x: float
    y: float
    anchor: str  # SVG's text-anchor: start, middle or end


def points_along(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points on the line through the corners, so that labels can avoid the line."""
    return [
        (x1 + share * (x2 - x1), y1 + share * (y2 - y1))
        for (x1, y1), (x2, y2) in pairwise(corners)
        for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ]


def spot_for_label(
    x: float, y: float, width: float, inside: Box, taken: list[tuple[float, float]]
) -> tuple[Spot, bool]:
    """Choose where to put a label of the given width next to the mark at (x, y).

    Return the first free spot and True. If no spot is free, return the spot to the right of the mark and False. `taken`
    lists the points to avoid. The points that the new label covers are appended to `taken`.
    """
    spots = [
        Spot(x + 9, y + 4, "start"),
        Spot(x - 9, y + 4, "end"),
        Spot(x, y - 10, "middle"),
        Spot(x, y + 19, "middle"),
    ]
    spots += [Spot(x + 9, y - 9, "start"), Spot(x - 9, y - 9, "end"), Spot(x + 9, y + 17, "start")]
    spots += [Spot(x - 9, y + 17, "end")]

    def left_of(spot: Spot) -> float:
        return spot.x - {"start": 0.0, "middle": width / 2, "end": width}[spot.anchor]

    def is_free(spot: Spot) -> bool:
        left = left_of(spot)
        fits = left >= inside.left and left + width <= inside.right and inside.top <= spot.y <= inside.bottom
        return fits and not any(left - 4 < a < left + width + 4 and abs(spot.y - 4 - b) < 12 for a, b in taken)

    free = next((spot for spot in spots if is_free(spot)), None)
    chosen = free or spots[0]
    left = left_of(chosen)
    taken += [(left + share * width, chosen.y - 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    return chosen, free is not None
