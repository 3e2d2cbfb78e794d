"""A comparison as two tidy CSV tables: metrics and costs of the groups, and tests of the pairs."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.printable import csv_cell

HEADER = ("study", "group", "head", "backbone", "metric", "mean", "std", "n", "low", "high")
PAIR_HEADER = (
    *("study", "metric", "a", "b", "seeds_a", "seeds_b", "documents", "difference", "low", "high"),
    *("simultaneous_low", "simultaneous_high", "standard_error", "degrees_of_freedom", "p_value", "p_holm", "margin"),
    *("p_equivalence_holm", "minimum_detectable_difference", "outcome"),
)


def csv_text(comparison: Comparison) -> str:
    """Return the CSV table of the groups: one row for each metric (including ECE) and each cost of each group."""
    rows: list[list[Any]] = []
    for group in comparison.groups:
        names = [csv_cell(text) for text in (comparison.study, group.name, group.head, group.backbone)]
        num_seeds = len(group.seeds)
        for key in (metric.key for metric in METRICS.values()):
            if (metric := group.metrics.get(key)) is None:
                rows.append([*names, key, "", "", num_seeds, "", ""])
            else:
                rows.append([*names, key, metric.mean, metric.std, num_seeds, metric.low, metric.high])
        if group.calibration is None:
            rows.append([*names, "test/ece", "", "", num_seeds, "", ""])
        else:
            eces = group.calibration.values
            std = np.std(eces, ddof=1) if num_seeds > 1 else ""
            rows.append([*names, "test/ece", np.mean(eces), std, num_seeds, "", ""])
        rows += [[*names, cost, value, "", num_seeds, "", ""] for cost, value in group.cost.items()]
    return written(HEADER, rows)


def pairs_csv_text(comparison: Comparison) -> str:
    """Return the CSV table of the pairs: one row per pair, with the difference in the metric of the comparison."""
    rows = [
        [
            *(csv_cell(comparison.study), comparison.metric.key, csv_cell(pair.a), csv_cell(pair.b), *pair.num_seeds),
            *(pair.shared_documents, pair.difference, pair.low, pair.high, pair.simultaneous_low),
            *(pair.simultaneous_high, pair.standard_error, pair.degrees_of_freedom, pair.p_value, pair.p_holm),
            *(pair.margin, pair.p_equivalence_holm, pair.minimum_detectable_difference, pair.outcome),
        ]
        for pair in comparison.pairs
    ]
    return written(PAIR_HEADER, rows)


def written(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
