"""Build `comparison.json`, which other tools can read.

Its keys are a public contract: add keys, but do not rename them. Accuracies, differences and intervals are fractions of
one, never percent. `comparison.results` documents what null means for each field.

- `format_version`, `study`, `label_names`
- `file`: name of the predictions file; null: the study consists of run folders
- `headline`, `paragraph`: the result in words; `paragraph` is for a paper
- `level`: 0.05
- `metric`: the metric that decides ranks and verdicts
- `margin`: the equivalence margin; null: equivalence is not tested
- `short_list`: the groups that may be the best; null: not known
- `baseline.{metric}`: the scores of always predicting the largest class, with the class frequencies as probabilities
- `facts.{name}[]`: what was compared, as the distinct values over all runs; see `comparison.facts`
- `settings.{shared, differing}`: config values by dotted key; a differing key has one value per group, which is empty
  if the group does not have the key
- `notes`: sentences about runs that were left out, possible confounds and looks
- `cautions`: the notes that the headline also contains
- `groups[]`, best first:
  - `name`, `head`, `backbone`, `seeds`, `max_length`, `num_documents`, `num_clusters`, `watched_test`
  - `varied.{key}`: choices in which the groups differ
  - `rank`: the same for groups with equal means
  - `num_failed`: number of failed runs
  - `num_collapsed`: number of runs that predict one class for nearly all documents
  - `largest_collapse_rate`: upper 95 % limit of the share of seeds that collapse
  - `validation_accuracy`: mean over seeds
  - `metrics.{test/accuracy, test/f1, test/auroc, test/ece, test/brier, test/loss}`: `mean` and `std` over seeds, `n`
    (number of seeds), `low` and `high` (95 % interval over documents and seeds), and `values` (one per seed, in the
    order of `seeds`). If the metric is not defined, all are null except `n`. ECE has no interval.
  - `ensemble.{metric}`: the metrics of the probabilities averaged over seeds
  - `calibration`: `ece`, `expected` (the ECE of a calibrated model), `p`, `temperatures` (one per seed, fitted on
    validation) and `ece_calibrated` (the mean ECE with these temperatures). `calibration` is null without
    probabilities. The last two are null if a run did not record a temperature.
  - `runs[]`: `name`, `seed`, `best_epoch`, `train_seconds`, the metric that decides (`validation` and `test`), and
    `url` (of the W&B page; null: not recorded)
  - `cost`, `cost_range`: the mean, and the lowest and highest value over seeds, by the keys of `cost.COSTS`
  - `confusion_matrix[][]`: documents by true and by predicted class, summed over seeds; null: more than 100 classes
  - `class_scores[]`: `name`, `num_documents`, and the means over seeds of `precision`, `recall` and `f1`
  - `parts.{length, truncated, class, part}[]`: `part`, `documents`, and the accuracy (`mean`, `low`, `high`)
  - `reliability[]`: `confidence`, `accuracy`, `share`
  - `learning_curves.{val/accuracy, val/f1, val/auroc, val/loss, train/loss}[]`: `epoch`, `mean`, `low` and `high` (the
    lowest and the highest seed), and `seeds` (number of seeds)
- `size_curves[]`: `head`, and `points[]` with `train_documents`, `group`, `mean`, `low`, `high`; empty unless
  the groups differ only in `data.train_limit` and the head (see `size_curves.size_curves_of`)
- `crossings[]`: `before` and `after` (the heads that are ahead at the smaller and at the larger of the two `sizes`),
  `leads` (differences at both sizes) and `significant`
- `pairs[]`, in which `a` ranks above `b`: all fields of `results.PairResult` except `higher_is_better`; the properties
  `equivalent`, `underpowered`, `seeds_varied` and `significant` of this class; and `verdict` (a sentence)
- `plan`: the fields of `results.PlanSummary`; null: the study has no plan, or the comparison does not follow it. With a
  plan, `look` of each tested pair has the fields of `results.PairLook`.
- `looks[]`: the number of runs at each earlier comparison of this study and at this one
- `pareto.{cost}`: names of the groups on the Pareto front of the metric and this cost
- `disagreements[]`: `right`, `wrong` (names of groups), `count`, `ids`
- `wrong_for_all`: `count`, `ids`
- `label_errors`: `count` (null: a group has no probabilities), `documents[]` with `id`, `label`, `suspected`,
  `least_confidence`

Lists of ids and documents contain at most 200 entries; `count` is the total.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from imdbcls.comparison.metrics import METRICS, Metric
from imdbcls.comparison.results import (
    Calibration,
    Comparison,
    CurvePoint,
    GroupSummary,
    MetricSummary,
    PairResult,
    PartAccuracy,
    SizeCurve,
)
from imdbcls.comparison.verdicts import LEVEL
from imdbcls.comparison.views.paragraph import paragraph
from imdbcls.comparison.views.wording import headline, verdict
from imdbcls.printable import json_pretty
from imdbcls.runs.format_version import COMPARISON, FORMAT_VERSION

MAX_LISTED = 200  # ids or documents in one list
MAX_MATRIX = 100  # classes in a confusion matrix


def comparison_json(comparison: Comparison) -> str:
    """Return the text of `comparison.json`."""
    return json_pretty(document_of(comparison)) + "\n"


def document_of(comparison: Comparison) -> dict[str, Any]:
    """Return the content of `comparison.json` as a dict, with the keys listed in the module docstring."""
    return {
        FORMAT_VERSION: COMPARISON,
        "study": comparison.study,
        "file": comparison.file,
        "headline": headline(comparison),
        "paragraph": paragraph(comparison),
        "level": LEVEL,
        "metric": comparison.metric.key,
        "margin": comparison.margin,
        "label_names": comparison.label_names,
        "facts": dict(comparison.facts),
        "settings": {
            "shared": dict(comparison.shared_settings),
            "differing": dict(comparison.differing_settings),
        },
        "notes": comparison.notes,
        "cautions": comparison.cautions,
        "short_list": comparison.short_list,
        "baseline": dict(comparison.baseline),
        "groups": [group_json(group) for group in comparison.groups],
        "size_curves": [size_curve_json(curve) for curve in comparison.size_curves],
        "crossings": [asdict(crossing) for crossing in comparison.crossings],
        "pairs": [pair_json(pair, comparison.metric) for pair in comparison.pairs],
        "pareto": dict(comparison.pareto),
        "disagreements": [
            {"right": each.right, "wrong": each.wrong, **listed_ids(each.ids)} for each in comparison.disagreements
        ],
        "wrong_for_all": listed_ids(comparison.wrong_for_all),
        "plan": None if comparison.plan is None else asdict(comparison.plan),
        "looks": comparison.looks,
        "label_errors": {
            "count": None if comparison.label_errors is None else len(comparison.label_errors),
            "documents": [asdict(error) for error in (comparison.label_errors or ())[:MAX_LISTED]],
        },
    }


def listed_ids(ids: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(ids), "ids": ids[:MAX_LISTED]}


def group_json(group: GroupSummary) -> dict[str, Any]:
    return {
        "name": group.name,
        "head": group.head,
        "backbone": group.backbone,
        "varied": dict(group.varied),
        "rank": group.rank,
        "seeds": group.seeds,
        "num_failed": group.num_failed,
        "num_documents": group.num_documents,
        "num_clusters": group.num_clusters,
        "max_length": group.max_length,
        "watched_test": group.watched_test,
        "validation_accuracy": group.validation_accuracy,
        "num_collapsed": group.num_collapsed,
        "largest_collapse_rate": group.largest_collapse_rate,
        "metrics": {
            **{each.key: metric_json(group.metrics.get(each.key), len(group.seeds)) for each in METRICS.values()},
            "test/ece": ece_json(group.calibration, len(group.seeds)),
        },
        "ensemble": dict(group.ensemble),
        "calibration": calibration_json(group.calibration),
        "runs": [asdict(run) for run in group.runs],
        "cost": dict(group.cost),
        "cost_range": dict(group.cost_range),
        "parts": {
            "length": [part_json(part) for part in group.parts.length],
            "truncated": [part_json(part) for part in group.parts.truncated],
            "class": [part_json(part) for part in group.parts.classes],
            "part": [part_json(part) for part in group.parts.given],
        },
        "confusion_matrix": group.confusion_matrix if len(group.confusion_matrix) <= MAX_MATRIX else None,
        "class_scores": [asdict(score) for score in group.class_scores],
        "reliability": [asdict(each) for each in group.reliability],
        "learning_curves": curves_json(group.learning_curves),
    }


def metric_json(metric: MetricSummary | None, num_seeds: int) -> dict[str, Any]:
    if metric is None:
        return {"mean": None, "std": None, "n": num_seeds, "low": None, "high": None, "values": None}
    return {
        "mean": metric.mean,
        "std": metric.std,
        "n": num_seeds,
        "low": metric.low,
        "high": metric.high,
        "values": metric.values,
    }


def calibration_json(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "ece": calibration.mean,
        "expected": calibration.expected,
        "p": calibration.p,
        "temperatures": calibration.temperatures,
        "ece_calibrated": calibration.calibrated_mean,
    }


def ece_json(calibration: Calibration | None, num_seeds: int) -> dict[str, Any]:
    """Return the ECE without an interval: an interval around a plug-in ECE seldom contains the true value."""
    if calibration is None:
        return metric_json(None, num_seeds)
    values = calibration.values
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": calibration.mean, "std": std, "n": len(values), "low": None, "high": None, "values": values}


def part_json(part: PartAccuracy) -> dict[str, Any]:
    mean, low, high = (
        (None, None, None) if part.accuracy is None else (part.accuracy.mean, part.accuracy.low, part.accuracy.high)
    )
    return {"part": part.name, "documents": part.num_documents, "mean": mean, "low": low, "high": high}


def curves_json(curves: Mapping[str, tuple[CurvePoint, ...]]) -> dict[str, Any]:
    return {
        metric: [{"epoch": p.epoch, "mean": p.mean, "low": p.low, "high": p.high, "seeds": p.num_seeds} for p in points]
        for metric, points in curves.items()
    }


def size_curve_json(curve: SizeCurve) -> dict[str, Any]:
    points = [
        {
            "train_documents": point.train_documents,
            "group": point.group,
            "mean": point.value.mean,
            "low": point.value.low,
            "high": point.value.high,
        }
        for point in curve.points
    ]
    return {"head": curve.name, "points": points}


def pair_json(pair: PairResult, metric: Metric) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "standard_error": pair.standard_error,
        "degrees_of_freedom": pair.degrees_of_freedom,
        "simultaneous_low": pair.simultaneous_low,
        "simultaneous_high": pair.simultaneous_high,
        "p_value": pair.p_value,
        "p_holm": pair.p_holm,
        "p_permutation": pair.p_permutation,
        "mcnemar": [asdict(test) for test in pair.mcnemar],
        "flips": None if pair.flips is None else asdict(pair.flips),
        "margin": pair.margin,
        "p_equivalence": pair.p_equivalence,
        "p_equivalence_holm": pair.p_equivalence_holm,
        "equivalent": pair.equivalent,
        "shared_documents": pair.shared_documents,
        "num_seeds": pair.num_seeds,
        "seeds_varied": pair.seeds_varied,
        "problem": pair.problem,
        "flags": pair.flags,
        "minimum_detectable_difference": pair.minimum_detectable_difference,
        "underpowered": pair.underpowered,
        "seeds_needed": pair.seeds_needed,
        "chance_to_settle": pair.chance_to_settle,
        "missing_seeds": pair.missing_seeds,
        "num_collapsed": pair.num_collapsed,
        "without_collapsed": None if pair.without_collapsed is None else asdict(pair.without_collapsed),
        "outcome": pair.outcome,
        "look": None if pair.look is None else asdict(pair.look),
        "significant": pair.significant,
        "verdict": verdict(pair, metric),
    }
