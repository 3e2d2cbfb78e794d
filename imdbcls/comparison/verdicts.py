"""The verdict on a pair of groups, decided from its p-values."""

from enum import StrEnum

LEVEL = 0.05  # significance level of every test, applied after any correction


class Outcome(StrEnum):
    """The possible verdicts on a pair of groups."""

    UNTESTED = "untested"
    BETTER = "better"
    BETTER_HERE = "here"  # better as trained; seeds were not varied, so other seeds may give another result
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def is_significant(p_documents: float | None, p_both: float | None, seeds_varied: bool) -> bool:
    """Return whether a difference is significant over documents and, if seeds were varied, also over seeds.

    `p_documents` and `p_both` (over documents and seeds) are corrected p-values; None: not tested.
    """
    p_values = [p_documents, p_both] if seeds_varied else [p_documents]
    return all(p is not None and p < LEVEL for p in p_values)


def outcome_of(tested: bool, significant: bool, equivalent: bool, seeds_varied: bool) -> Outcome:
    """Return the verdict. A significant difference gives `BETTER`, even if it is also smaller than the margin."""
    if not tested:
        return Outcome.UNTESTED
    if significant:
        return Outcome.BETTER if seeds_varied else Outcome.BETTER_HERE
    return Outcome.EQUIVALENT if equivalent else Outcome.UNDECIDED
