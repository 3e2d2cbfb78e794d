"""Compute all results of a study as one immutable `Comparison`."""

from itertools import combinations

from imdbcls.comparison.calibration import reliability_curve
from imdbcls.comparison.cost import costs_of, pareto_fronts
from imdbcls.comparison.curves import learning_curves
from imdbcls.comparison.mistakes import disagreements, label_errors, wrong_for_all
from imdbcls.comparison.notes import confounds, partial_overlaps
from imdbcls.comparison.pairs import compare_pairs
from imdbcls.comparison.results import Comparison, GroupSummary, MetricSummary
from imdbcls.comparison.run_files import number
from imdbcls.comparison.scores import score_group
from imdbcls.comparison.slices import accuracy_by_part
from imdbcls.comparison.study import Group, Study


def compare_study(study: Study, margin: float) -> Comparison:
    """Summarize every group, best first, and test every pair.

    `margin` is the accuracy difference, as a fraction, below which two groups count as equivalent.
    """
    scored = {group.name: score_group(group) for group in study.groups}
    metrics = {name: summaries for name, (summaries, _) in scored.items()}
    ranked = sorted(study.groups, key=lambda group: -metrics[group.name]["test/accuracy"].mean)
    groups = tuple(
        summarize_group(group, rank, metrics[group.name], study.label_names)
        for rank, group in enumerate(ranked, start=1)
    )
    draws = {name: accuracy_draws_BS for name, (_, accuracy_draws_BS) in scored.items()}
    pairs = compare_pairs(combinations(ranked, 2), draws, margin)
    return Comparison(
        study=study.name,
        margin=margin,
        label_names=study.label_names,
        notes=(*study.left_out, *confounds(study.groups), *partial_overlaps(pairs, ranked)),
        groups=groups,
        pairs=pairs,
        pareto=pareto_fronts(groups),
        disagreements=disagreements(ranked),
        wrong_for_all=wrong_for_all(ranked),
        label_errors=label_errors(ranked),
    )


def summarize_group(
    group: Group, rank: int, metrics: dict[str, MetricSummary], label_names: tuple[str, ...]
) -> GroupSummary:
    return GroupSummary(
        name=group.name,
        head=group.head,
        backbone=group.backbone,
        rank=rank,
        seeds=tuple(group.seeds),
        num_failed=group.num_failed,
        num_documents=len(group.ids),
        num_clusters=None if group.clusters_N is None else group.num_independent,
        max_length=group.max_length,
        watched_test=group.watched_test,
        validation_accuracy=validation_accuracy(group),
        metrics=metrics,
        cost=costs_of(group),
        parts=accuracy_by_part(group, label_names),
        reliability=reliability_curve(group),
        learning_curves=learning_curves(group),
    )


def validation_accuracy(group: Group) -> float | None:
    """Return the mean validation accuracy over the runs that recorded one, or None if no run did."""
    found = [value for run in group.runs if (value := number(run.result.get("val/accuracy"))) is not None]
    return sum(found) / len(found) if found else None
