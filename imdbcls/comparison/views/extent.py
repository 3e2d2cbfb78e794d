"""How much of a large comparison its views show; comparison.json holds every pair and group."""

from collections.abc import Sequence

from imdbcls.comparison.results import Comparison, GroupSummary, PairResult

MOST_PAIRS = 45  # all pairs of ten groups
MOST_GROUPS = 20  # side by side: as columns of a table, or in one figure


def shown_pairs(comparison: Comparison) -> tuple[PairResult, ...]:
    """Return all pairs; of more than `MOST_PAIRS` only the best group's, with those next to it in rank."""
    if len(comparison.pairs) <= MOST_PAIRS:
        return comparison.pairs
    best = comparison.groups[0].name
    return tuple(pair for pair in comparison.pairs if best in (pair.a, pair.b))[:MOST_PAIRS]


def note_on_pairs(comparison: Comparison) -> str:
    """Return a sentence about the pairs that are not shown; empty where all are."""
    num_shown, num_pairs = len(shown_pairs(comparison)), len(comparison.pairs)
    if num_shown == num_pairs:
        return ""
    return (
        f"Shown are the pairs of the best group with the {num_shown} next in rank. comparison.json has all "
        f"{num_pairs:,} pairs; every p is corrected for all of them."
    )


def shown_groups(groups: Sequence[GroupSummary]) -> Sequence[GroupSummary]:
    """Return the best groups, as many as can stand side by side."""
    return groups[:MOST_GROUPS]


def note_on_groups(groups: Sequence[GroupSummary]) -> str:
    """Return a sentence about the groups that are not shown; empty where all are."""
    if len(groups) <= MOST_GROUPS:
        return ""
    return f"Only the best {MOST_GROUPS} of {len(groups):,} groups; comparison.json has all."
