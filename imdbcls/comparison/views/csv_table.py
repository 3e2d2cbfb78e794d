"""A comparison as tidy CSV: one row for each metric and each cost of each group."""

import csv
import io

from imdbcls.comparison.results import Comparison
from imdbcls.comparison.scores import METRICS
from imdbcls.printable import csv_cell

HEADER = ("study", "group", "head", "backbone", "metric", "mean", "std", "n", "low", "high")


def csv_text(comparison: Comparison) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for group in comparison.groups:
        names = [csv_cell(text) for text in (comparison.study, group.name, group.head, group.backbone)]
        num_seeds = len(group.seeds)
        for name in (metric.name for metric in METRICS):
            if (metric := group.metrics.get(name)) is None:
                writer.writerow([*names, name, "", "", num_seeds, "", ""])
            else:
                writer.writerow([*names, name, metric.mean, metric.std, num_seeds, metric.low, metric.high])
        for cost, value in group.cost.items():
            writer.writerow([*names, cost, value, "", num_seeds, "", ""])
    return file.getvalue()
