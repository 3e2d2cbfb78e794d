"""Write small tables."""

import csv
from pathlib import Path


def write(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label", "author"), *rows])
    return path
