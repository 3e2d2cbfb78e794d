"""Limits on the pairs and groups that the views show. comparison.json contains all pairs and groups."""

from collections.abc import Sequence

from imdbcls.comparison.results import Comparison, GroupSummary, PairResult

MAX_PAIRS = 45  # all pairs of ten groups
MAX_GROUPS = 20  # as curves of one figure, as columns of a table, or in the list of documents


def shown_pairs(comparison: Comparison) -> tuple[PairResult, ...]:
    """Return the pairs to show. If there are at most `MAX_PAIRS` pairs, return all of them.

    Otherwise, return the pairs of the best group with the groups that follow it in the ranking, at most `MAX_PAIRS`.
    """
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
        f"Only {num_shown} pairs are shown: the best group with each of the {num_shown} groups that follow it in the "
        f"ranking. The p-values are corrected for all tested pairs. comparison.json contains all {num_pairs:,} pairs."
    )


def shown_groups(groups: Sequence[GroupSummary]) -> Sequence[GroupSummary]:
    """Return the best `MAX_GROUPS` groups, or all groups if there are fewer."""
    return groups[:MAX_GROUPS]


def note_on_groups(groups: Sequence[GroupSummary]) -> str:
    """Return a sentence about the groups that are not shown, or an empty string if all are shown."""
    if len(groups) <= MAX_GROUPS:
        return ""
    return f"Only the best {MAX_GROUPS} of {len(groups):,} groups are shown. comparison.json contains all groups."
