"""Bar charts of the results, as text and as SVG."""

from collections.abc import Sequence
from typing import Any

from imdbcls.comparison.views import svg

BLOCKS = " ▏▎▍▌▋▊▉"
WIDTH, ROW, TOP = 780, 26, 42  # width of the drawing, height of a row, space above the first row of a task
NAMES, VALUES = 220, 90  # width of the names on the left and the values on the right


def bars(values: Sequence[float], width: int = 24) -> list[str]:
    """Return bars of block characters, exact to an eighth of a character. The longest bar has `width` characters."""
    eighths = [round(8 * width * value / max(values)) for value in values]
    return ["█" * (count // 8) + BLOCKS[count % 8].strip() for count in eighths]


def drawing(results: dict[str, Any]) -> str:
    """Return a bar chart of the documents per second as an SVG file, with a panel per task.

    A bar shows the median over rounds. The line on it extends from the slowest to the fastest round.
    """
    parts, top = [], 0
    for task in results["ratios"]:
        rows = [row for row in results["rows"] if row["task"] == task]
        parts.append(panel(task, rows, top))
        top += TOP + ROW * len(rows)
    ends = "; ".join(f"{row['task']}, {row['name']}: {speed(row)}" for row in results["rows"])
    label = f"Documents per second, {results['backbone']}, {results['max_length']} tokens. {ends}."
    return svg.standalone(svg.figure(WIDTH, top + 10, label, parts))


def panel(task: str, rows: Sequence[dict[str, Any]], top: float) -> str:
    x = svg.Scale(0, max(row["documents_per_second"]["max"] for row in rows), NAMES, WIDTH - VALUES)
    parts = [svg.text(8, top + 28, f"{task}, documents per second", "title")]
    for i, row in enumerate(rows):
        y, middle = top + TOP + ROW * i, top + TOP + ROW * i + ROW / 2
        speeds = row["documents_per_second"]
        series = "s0" if i == len(rows) - 1 else "s7"
        parts.append(svg.text(NAMES - 8, middle + 4, row["name"], "label", "end"))
        parts.append(svg.box(NAMES, y + 4, x(speeds["median"]) - NAMES, ROW - 8, f"mark {series}"))
        parts.append(svg.line(x(speeds["min"]), middle, x(speeds["max"]), middle, "zero"))
        parts.append(svg.text(x(speeds["max"]) + 8, middle + 4, speed(row), "label"))
    return "".join(parts)


def speed(row: dict[str, Any]) -> str:
    return f"{row['documents_per_second']['median']:.1f}"
