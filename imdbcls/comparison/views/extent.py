"""Limits on the pairs and groups that the views show. comparison.json contains all of them."""

from collections.abc import Sequence

from imdbcls.comparison.results import Comparison, GroupSummary, PairResult

MAX_PAIRS = 45  # all pairs of ten groups
MAX_GROUPS = 20  # side by side: as columns of a table, or in one figure


def shown_pairs(comparison: Comparison) -> tuple[PairResult, ...]:
    """Return all pairs, or if they exceed `MAX_PAIRS`, that many pairs of the best group, by the other group's rank."""
    if len(comparison.pairs) <= MAX_PAIRS:
        return comparison.pairs
    best = comparison.groups[0].name
    return tuple(pair for pair in comparison.pairs if best in (pair.a, pair.b))[:MAX_PAIRS]


def note_on_pairs(comparison: Comparison) -> str:
    """Return a sentence about the pairs that are not shown, or an empty string if all are shown."""
    num_shown, num_pairs = len(shown_pairs(comparison)), len(comparison.pairs)
    if num_shown == num_pairs:
        return ""
    return (
        f"Only the pairs of the best group with the {num_shown} groups ranked next are shown. comparison.json has all "
        f"{num_pairs:,} pairs; the p-values are corrected for all of them."
    )


def shown_groups(groups: Sequence[GroupSummary]) -> Sequence[GroupSummary]:
    """Return the best groups, at most `MAX_GROUPS`."""
    return groups[:MAX_GROUPS]


def note_on_groups(groups: Sequence[GroupSummary]) -> str:
    """Return a sentence about the groups that are not shown, or an empty string if all are shown."""
    if len(groups) <= MAX_GROUPS:
        return ""
    return f"Only the best {MAX_GROUPS} of {len(groups):,} groups are shown; comparison.json has all of them."
