"""Put the whole comparison into one JSON document, which every view (terminal, page, files, W&B) reads.

Keys of `comparison.json`; accuracies, differences and intervals are fractions of one, never percent.

- `study`, `headline`, `level` (0.05), `margin` (of equivalence), `label_names`, `notes` (what was left out or flagged)
- `groups[]`, best first: `name`, `head`, `backbone`, `rank`, `seeds`, `num_failed` (runs), `num_documents`,
  `num_clusters` (of test documents that belong together; null: not known), `max_length`, `watched_test`,
  `validation_accuracy` (mean over seeds),
  `metrics.{test/accuracy, test/f1, test/auroc, test/ece, test/brier, test/loss}` with `mean`, `std` (over seeds), `n`
  (seeds), `low`, `high` (95 % interval over documents and seeds), `values` (one per seed, in the order of `seeds`);
  `cost` (see cost.COSTS; means over seeds, null where not measured);
  `parts.{length, truncated, class}[]` with `part`, `documents`, `mean`, `low`, `high`;
  `reliability[]` with `confidence`, `accuracy`, `share`;
  `learning_curves.{val/accuracy, val/loss}[]` with `epoch`, `mean`, `low`, `high` (lowest and highest seed), `seeds`
- `pairs[]`, `a` ranked above `b`: `difference` (a - b), `low`, `high`, `standard_error`, `degrees_of_freedom` (null:
  infinite), `p_permutation` and `p_holm` (documents; these trained models), `p_hierarchical` and `p_hierarchical_holm`
  (documents and seeds; null with one seed), `mcnemar[]` (`seed`, `a_only`, `b_only`, `p`), `flips` (`a_only`, `b_only`:
  mean over pairs of seeds; `a_only_in_every_seed`, `b_only_in_every_seed`), `p_equivalence`, `equivalent`, `margin`,
  `minimum_detectable_difference` and `underpowered` (it is more than the margin; both null where seeds were not
  varied), `seeds_needed` (null: unknown, or more than 50), `significant`,
  `shared_documents`, `num_seeds`, `seeds_varied`, `problem` (why not tested, else null), `flags`, `verdict`
- `pareto.{cost}`: names of the groups on the front of accuracy and that cost
- `disagreements[]` (`right`, `wrong`, `count`, `ids`), `wrong_for_all` (`count`, `ids`), `label_errors` (`count`,
  `documents[]` with `id`, `label`, `suspected`, `least_confidence`); the lists stop at 200
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from imdbcls.comparison.calibration import reliability_curve
from imdbcls.comparison.cost import COSTS, costs_of, pareto_front
from imdbcls.comparison.curves import learning_curves
from imdbcls.comparison.mistakes import (
    MAX_LISTED,
    Texts,
    disagreements,
    documents_to_read,
    label_errors,
    wrong_for_all,
)
from imdbcls.comparison.pairs import LEVEL, compare_pairs
from imdbcls.comparison.run_files import number
from imdbcls.comparison.scores import score_group
from imdbcls.comparison.slices import accuracy_by_part
from imdbcls.comparison.study import Group, Study
from imdbcls.comparison.verdicts import headline


def compare_study(study: Study, margin: float, texts: Texts | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The comparison (the content of comparison.json), and the page's documents to read with their count.

    `margin` is the accuracy difference, as a fraction, below which two groups count as equivalent.
    """
    scored = {group.name: score_group(group) for group in study.groups}
    ranked = sorted(study.groups, key=lambda group: -scored[group.name][0]["test/accuracy"]["mean"])
    groups = [describe(group, rank, scored[group.name][0], study) for rank, group in enumerate(ranked, start=1)]
    pairs = compare_pairs(combinations(ranked, 2), {name: draws for name, (_, draws) in scored.items()}, margin)
    found: dict[str, Any] = {
        "disagreements": disagreements(ranked),
        "wrong_for_all": wrong_for_all(ranked),
        "label_errors": label_errors(ranked),
    }
    documents, num_candidates = documents_to_read(ranked, study.label_names, found, texts)
    comparison = {
        "study": study.name,
        "headline": headline(pairs, [group.name for group in ranked]),
        "level": LEVEL,
        "margin": margin,
        "label_names": list(study.label_names),
        "notes": [*study.notes, *partial_overlaps(pairs, ranked)],
        "groups": groups,
        "pairs": pairs,
        "pareto": {cost: pareto_front(groups, cost) for cost in COSTS},
        "disagreements": [
            {"right": d["right"], "wrong": d["wrong"], "count": len(d["ids"]), "ids": d["ids"][:MAX_LISTED]}
            for d in found["disagreements"]
        ],
        "wrong_for_all": {"count": len(found["wrong_for_all"]), "ids": found["wrong_for_all"][:MAX_LISTED]},
        "label_errors": {"count": len(found["label_errors"]), "documents": found["label_errors"][:MAX_LISTED]},
    }
    return comparison, {"documents": documents, "num_candidates": num_candidates}


def partial_overlaps(pairs: list[dict[str, Any]], groups: list[Group]) -> Iterator[str]:
    """A sentence for each pair of groups whose test sets overlap in part."""
    sizes = {group.name: len(group.ids) for group in groups}
    for pair in pairs:
        shared, size_a, size_b = pair["shared_documents"], sizes[pair["a"]], sizes[pair["b"]]
        if not pair["problem"] and shared < max(size_a, size_b):
            yield (
                f"{pair['a']} and {pair['b']} are compared on the {shared:,} documents that both answered "
                f"(of {size_a:,} and {size_b:,})."
            )


def describe(group: Group, rank: int, metrics: dict[str, Any], study: Study) -> dict[str, Any]:
    return {
        "name": group.name,
        "head": group.head,
        "backbone": group.backbone,
        "rank": rank,
        "seeds": group.seeds,
        "num_failed": group.num_failed,
        "num_documents": len(group.ids),
        "num_clusters": None if group.clusters_N is None else group.num_independent,
        "max_length": group.max_length,
        "watched_test": group.watched_test,
        "validation_accuracy": validation_accuracy(group),
        "metrics": metrics,
        "cost": costs_of(group),
        "parts": accuracy_by_part(group, study.label_names),
        "reliability": reliability_curve(group),
        "learning_curves": learning_curves(group),
    }


def validation_accuracy(group: Group) -> float | None:
    """The mean over the seeds whose runs recorded it."""
    found = [value for run in group.runs if (value := number(run.result.get("val/accuracy"))) is not None]
    return sum(found) / len(found) if found else None
