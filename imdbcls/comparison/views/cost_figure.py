"""Draw accuracy against a cost with the Pareto front, and labels that avoid marks and lines."""

from collections.abc import Sequence
from itertools import pairwise

from imdbcls.comparison.cost import COSTS
from imdbcls.comparison.results import GroupSummary
from imdbcls.comparison.views import svg

PLANES = ("latency_ms_p50", "train_seconds", "head_parameters", "peak_memory_mb")


def cost_plane(groups: Sequence[GroupSummary], cost: str, front: Sequence[str]) -> str:
    placed = [
        (i, price, 100 * group.accuracy.mean)
        for i, group in enumerate(groups)
        if (price := group.cost[cost]) is not None
    ]
    prices = [price for _, price, _ in placed]
    log = min(prices) > 0 and max(prices) / min(prices) > 20
    price_range = (min(prices) / 1.6, max(prices) * 1.6) if log else svg.padded(prices, 0.15)
    x = svg.Scale(price_range[0], price_range[1], 46, svg.WIDTH - 14, log)
    y = svg.Scale(*svg.padded([accuracy for _, _, accuracy in placed], 0.18), svg.HEIGHT - 44, 26)
    title = COSTS[cost] + (", log scale" if log else "")
    labels = [svg.compact(t) for t in x.ticks()], [f"{t:.4g}" for t in y.ticks()]
    parts = [svg.axes(x, y, title, "test accuracy %", *labels)]
    on_front = sorted((price, accuracy) for i, price, accuracy in placed if groups[i].name in front)
    steps = [(x(price), y(accuracy)) for price, accuracy in on_front]
    corners = [corner for (_, y1), (x2, y2) in pairwise(steps) for corner in ((x2, y1), (x2, y2))]
    if corners:
        parts.append(svg.path([steps[0], *corners], "front"))
    taken = [(x(price), y(accuracy)) for _, price, accuracy in placed] + points_along([*steps[:1], *corners])
    for i, price, accuracy in placed:
        name = groups[i].name
        parts.append(svg.marker(x(price), y(accuracy), i, f"{name}: {accuracy:.2f} %, {svg.compact(price)}"))
        parts.append(place_label(x(price), y(accuracy), svg.short_name(name, 20), taken))
    ends = "; ".join(f"{groups[i].name}: {accuracy:.2f} % at {svg.compact(price)}" for i, price, accuracy in placed)
    return svg.figure(
        svg.WIDTH, svg.HEIGHT, f"Accuracy against {title}. {ends}. On the front: {', '.join(front)}.", parts
    )


def points_along(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points on the line through the corners, for labels to avoid."""
    return [
        (x1 + share * (x2 - x1), y1 + share * (y2 - y1))
        for (x1, y1), (x2, y2) in pairwise(corners)
        for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ]


def place_label(x: float, y: float, words: str, taken: list[tuple[float, float]]) -> str:
    """Place the label on the first side of its mark where it covers no other label or mark; `taken` grows by it."""
    width = 7.0 * len(words)
    spots = [(x + 9, y + 4, "start"), (x - 9, y + 4, "end"), (x, y - 10, "middle"), (x, y + 19, "middle")]
    spots += [(x + 9, y - 9, "start"), (x - 9, y - 9, "end"), (x + 9, y + 17, "start"), (x - 9, y + 17, "end")]

    def left_of(spot: tuple[float, float, str]) -> float:
        return spot[0] - {"start": 0.0, "middle": width / 2, "end": width}[spot[2]]

    def free(spot: tuple[float, float, str]) -> bool:
        left = left_of(spot)
        inside = left >= 54 and left + width <= svg.WIDTH - 2 and 24 <= spot[1] <= svg.HEIGHT - 46
        return inside and not any(left - 4 < a < left + width + 4 and abs(spot[1] - 4 - b) < 12 for a, b in taken)

    spot = next((spot for spot in spots if free(spot)), spots[0])
    left = left_of(spot)
    taken += [(left + share * width, spot[1] - 4) for share in (0, 0.25, 0.5, 0.75, 1)]
    return svg.text(spot[0], spot[1], words, "label", spot[2])
