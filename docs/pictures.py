"""Draw the pictures of the concept pages: `python docs/pictures.py`.

They are SVG files that follow the colour scheme of the reader. Every call of the command writes the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

PICTURES = Path(__file__).resolve().parent / "pages" / "pictures"
STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
    .page { fill: #ffffff; }
    .small { font-size: 11.5px; fill: #57606a; }
    .bold { font-weight: 600; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; }
    .line { stroke: #8c959f; fill: none; }
    .thick { stroke-width: 2.5; }
    .dashed { stroke-dasharray: 4 3; }
    .box { fill: #f6f8fa; stroke: #8c959f; }
    .blue { fill: #0969da; } .blue-line { stroke: #0969da; fill: none; }
    .orange { fill: #bc4c00; } .orange-line { stroke: #bc4c00; fill: none; }
    .green { fill: #1a7f37; } .green-line { stroke: #1a7f37; fill: none; }
    .grey { fill: #8c959f; } .grey-line { stroke: #6e7781; fill: none; }
    .pale { fill: #d0d7de; }
    .band { fill: #1a7f37; opacity: 0.14; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #1e2129; } text { fill: #e6edf3; } .small { fill: #9ea7b3; }
      .box { fill: #22272e; stroke: #768390; } .line { stroke: #768390; } .pale { fill: #3d444d; }
      .blue { fill: #58a6ff; } .blue-line { stroke: #58a6ff; }
      .orange { fill: #f0883e; } .orange-line { stroke: #f0883e; }
      .green { fill: #3fb950; } .green-line { stroke: #3fb950; }
      .grey { fill: #768390; } .grey-line { stroke: #909dab; } .band { fill: #3fb950; }
    }
"""


def picture(width: int, height: int, description: str, parts: Sequence[str]) -> str:
    """Return an SVG file. The description is for readers who do not see the picture."""
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    inside = "\n".join(f"  {part}" for part in (rect(0, 0, width, height, "page"), *parts))
    return f'{start} role="img" aria-label="{description}">\n  <style>{STYLE}  </style>\n{inside}\n</svg>\n'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str, radius: float = 3) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{kind}"/>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "line") -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>'


def splits() -> str:
    """Draw films with their reviews; every film is in one split."""
    colours = {"train": "blue", "validation": "orange", "test": "green"}
    films = ["train"] * 7 + ["validation"] * 2 + ["test"] * 3
    sizes = (4, 2, 5, 3, 1, 4, 2, 3, 2, 4, 1, 3)
    parts = []
    for number, (split, size) in enumerate(zip(films, sizes, strict=True)):
        x = 20 + number * 56 + 18 * (number >= 7) + 18 * (number >= 9)
        parts.append(rect(x, 40, 48, 118, "box", 6))
        parts += [rect(x + 8, 140 - 20 * row, 32, 12, colours[split]) for row in range(size)]
        parts.append(text(x + 24, 174, f"film {number + 1}", "small middle"))
    for split, x in (("train", 212), ("validation", 482), ("test", 640)):
        parts.append(text(x, 26, split, "bold middle"))
    parts.append(text(370, 200, "A bar is a review. All reviews of a film are in one split.", "small middle"))
    return picture(740, 212, "Films with their reviews. Each film is in one split.", parts)


def seeds() -> str:
    """Draw two heads and two seeds: a seed decides the weights and the order of the batches."""
    parts = [text(200, 24, "batches", "bold")]
    orders = {"seed 0": "ACBDE", "seed 1": "DBEAC"}
    for row, (seed, head) in enumerate((seed, head) for seed in orders for head in ("cls", "lstm")):
        y = 40 + row * 44 + 18 * (row >= 2)
        parts.append(text(20, y + 20, seed, "bold"))
        parts.append(text(90, y + 20, f"head={head}"))
        for column, letter in enumerate(orders[seed]):
            parts.append(rect(200 + column * 52, y, 44, 30, "box", 5))
            parts.append(text(222 + column * 52, y + 20, letter, "middle"))
        kind = "blue" if seed == "seed 0" else "orange"
        parts.append(line(470, y + 15, 505, y + 15))
        parts.append(circle(520, y + 15, 7, kind if head == "cls" else f"{kind}-line thick"))
        parts.append(text(540, y + 20, f"trained {head}", "small"))
    parts.append(
        text(
            20, 242, "Same seed: same batches in the same order, for every head. Another seed: another order,", "small"
        )
    )
    parts.append(
        text(20, 259, "other initial weights and other dropout masks. The split is the same in all four runs.", "small")
    )
    return picture(660, 270, "Two heads and two seeds. Runs of one seed see the same batches.", parts)


def resume() -> str:
    """Draw an uninterrupted and an interrupted run, which end with the same weights."""
    parts = []
    for y, name in ((50, "uninterrupted"), (120, "interrupted")):
        parts.append(text(20, y + 5, name, "bold"))
        parts.append(line(140, y, 330 if name == "interrupted" else 600, y, "blue-line thick"))
        parts += [circle(x, y, 5, "blue") for x in (140, 260)]
        parts.append(rect(604, y - 15, 106, 30, "box", 5))
        parts.append(text(657, y + 5, "sha256 9f2c…", "middle"))
    parts += [circle(380, 50, 5, "blue"), circle(500, 50, 5, "blue")]
    parts.append(text(336, 126, "\N{MULTIPLICATION SIGN}", "bold orange"))
    parts.append(text(336, 100, "kill -9", "small middle"))
    parts.append(line(260, 126, 260, 150, "green-line dashed"))
    parts.append(line(260, 150, 600, 150, "green-line thick"))
    parts.append(line(600, 150, 600, 124, "green-line thick"))
    parts += [circle(x, 150, 5, "green") for x in (260, 380, 500)]
    parts.append(text(430, 172, "the same command continues from the checkpoint", "small middle"))
    parts.append(text(260, 32, "checkpoint", "small middle"))
    return picture(730, 186, "An interrupted run continues from its checkpoint and ends with the same weights.", parts)


def variation() -> str:
    """Draw which documents each run of two heads classifies correctly."""
    generator = np.random.default_rng(7)
    difficulty_N = np.sort(generator.normal(size=24))[::-1]
    parts = []
    for place, (head, skill) in enumerate((("head A", 0.2), ("head B", 0.6))):
        x0 = 150 + place * 260
        parts.append(text(x0 + 94, 24, head, "bold middle"))
        for seed in range(5):
            x = x0 + seed * 38
            right_N = difficulty_N + skill + 0.15 * generator.normal() + 0.6 * generator.normal(size=24) > -0.7
            parts.append(text(x + 16, 44, str(seed), "small middle"))
            parts += [rect(x, 52 + 9 * row, 32, 7, "blue" if right else "pale", 1) for row, right in enumerate(right_N)]
            parts.append(text(x + 16, 284, f"{right_N.mean():.0%}".replace("%", " %"), "small middle"))
    parts.append(text(20, 44, "seed", "small"))
    parts.append(text(20, 64, "easy document", "small"))
    parts.append(text(20, 262, "hard document", "small"))
    parts.append(text(20, 284, "accuracy", "small"))
    parts.append(rect(600, 56, 22, 9, "blue", 1) + text(630, 65, "correct", "small"))
    parts.append(rect(600, 78, 22, 9, "pale", 1) + text(630, 87, "wrong", "small"))
    return picture(690, 300, "Correct and wrong predictions of two heads, by document and seed.", parts)


def verdicts() -> str:
    """Draw examples of intervals for each verdict on a difference."""
    rows = (
        ("better", 1.4, 0.6, 2.2, "blue", "the interval does not contain 0"),
        ("equivalent", 0.05, -0.2, 0.25, "green", "the interval is within the margin"),
        ("undecided", 0.6, -0.7, 1.9, "grey", "it contains 0 and is wider than the margin"),
        ("undecided", -0.1, -0.55, 0.35, "grey", "more documents or seeds would narrow it"),
    )

    def place(points: float) -> float:
        return 250 + 75 * points

    parts = [rect(place(-0.3), 34, 45, 170, "band", 0), line(place(0), 34, place(0), 204)]
    parts.append(text(place(0), 24, "no difference", "small middle"))
    for number, (verdict, middle, low, high, kind, why) in enumerate(rows):
        y = 60 + number * 40
        parts.append(text(20, y + 5, verdict, "bold"))
        parts.append(line(place(low), y, place(high), y, f"{kind}-line thick"))
        parts.append(circle(place(middle), y, 5, kind))
        parts.append(text(450, y + 5, why, "small"))
    for points in (-1, 0, 1, 2):
        parts.append(
            text(place(points), 222, f"{points:+d}".replace("-", "\N{MINUS SIGN}") if points else "0", "small middle")
        )
    parts.append(text(place(0.6), 242, "difference in accuracy, points; the band is the margin", "small middle"))
    return picture(720, 254, "Intervals of a difference for each verdict.", parts)


def false_alarms() -> str:
    """Draw how often each test calls equally good heads different."""
    rows = (
        ("compare", 1, 6, "green"),
        ("McNemar's test, seeds pooled", 6, 61, "orange"),
        ("testing after every seed", 10, 15, "orange"),
    )
    parts = [line(245, 34, 245, 160, "line dashed"), text(245, 26, "5 %", "small middle")]
    for number, (name, low, high, kind) in enumerate(rows):
        y = 44 + number * 40
        parts.append(text(20, y + 15, name))
        parts.append(rect(220 + 5 * low, y, 5 * (high - low), 20, kind))
        parts.append(text(226 + 5 * high, y + 15, f"{low} to {high} %", "small"))
    parts.append(line(220, 34, 220, 160))
    parts.append(
        text(20, 182, "Share of simulated studies of two equally good heads in which one was called better.", "small")
    )
    parts.append(text(20, 199, "A bar spans the lowest and the highest rate over the simulated settings.", "small"))
    return picture(640, 210, "Rates of false verdicts by method.", parts)


PICTURE_BY_NAME = {
    "splits": splits,
    "seeds": seeds,
    "resume": resume,
    "variation": variation,
    "verdicts": verdicts,
    "false_alarms": false_alarms,
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, draw in PICTURE_BY_NAME.items():
        (PICTURES / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
