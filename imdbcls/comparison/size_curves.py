"""Compute curves of the metric by training size, if the groups differ only in `data.train_limit` and in the head.

Two curves cross between two sizes if one head is ahead at the smaller size and the other at the larger one.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from imdbcls.comparison.group import Group
from imdbcls.comparison.naming import choices_of
from imdbcls.comparison.results import Crossing, GroupSummary, PairResult, SizeCurve, SizePoint
from imdbcls.comparison.run_files import number

LIMIT = "data.train_limit"
MAX_CURVES = 8


def size_curves_of(groups: Sequence[Group], summaries: Sequence[GroupSummary]) -> tuple[SizeCurve, ...]:
    """Return one curve per head, sorted by the largest training size (descending), then by the rank at that size.

    Return an empty tuple in any of these cases:
    - The groups differ in more than the head and the training size.
    - `data.train_limit` or a size is not recorded.
    - Two groups have the same head and size.
    - No head has two sizes.
    - There are more than `MAX_CURVES` heads.
    """
    choices = choices_of([group.runs[0] for group in groups])
    sizes = [train_documents(group) for group in groups]
    if not all(LIMIT in choice and other_choices(choice) == other_choices(choices[0]) for choice in choices):
        return ()
    points: dict[str, list[SizePoint]] = defaultdict(list)
    for group, size, summary in zip(groups, sizes, summaries, strict=True):
        if size is None:
            return ()
        points[group.head].append(SizePoint(size, summary.name, summary.primary))
    has_variants = any(len({point.train_documents for point in found}) < len(found) for found in points.values())
    if has_variants or max(len(found) for found in points.values()) < 2 or len(points) > MAX_CURVES:
        return ()
    ranks = {summary.name: summary.rank for summary in summaries}
    curves = [SizeCurve(head, tuple(sorted(found, key=lambda p: p.train_documents))) for head, found in points.items()]
    return tuple(sorted(curves, key=lambda curve: (-curve.points[-1].train_documents, ranks[curve.points[-1].group])))


def other_choices(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the choices other than the head and the training size."""
    return {key: value for key, value in choice.items() if key != LIMIT and not key.startswith("head.")}


def train_documents(group: Group) -> int | None:
    """Return the number of training documents, or None if the runs differ or a run has no valid number."""
    found = {number(run.result.get("train_documents")) for run in group.runs}
    size = found.pop()
    return None if found or size is None or size < 1 else int(size)


def crossings_of(curves: Sequence[SizeCurve], pairs: Sequence[PairResult]) -> tuple[Crossing, ...]:
    """Return every crossing of two curves.

    Only sizes that both curves have are considered. A crossing lies between two neighbouring sizes; there is none next
    to a size at which the curves are equal.
    """
    tested = {frozenset((pair.a, pair.b)): pair for pair in pairs}
    crossings = []
    for first, second in combinations(curves, 2):
        points = {point.train_documents: point for point in second.points}
        shared = [(point, points[point.train_documents]) for point in first.points if point.train_documents in points]
        found = [(a.train_documents, tested[frozenset((a.group, b.group))], a.group) for a, b in shared]
        for (small, before, group_before), (large, after, group_after) in pairwise(found):
            if (
                (before.leader == group_before) != (after.leader == group_after)
                and before.difference
                and after.difference
            ):
                leads_before = before.leader == group_before
                crossings.append(
                    Crossing(
                        before=first.name if leads_before else second.name,
                        after=second.name if leads_before else first.name,
                        sizes=(small, large),
                        leads=(abs(before.difference), abs(after.difference)),
                        significant=(before.significant, after.significant),
                    )
                )
    return tuple(crossings)
