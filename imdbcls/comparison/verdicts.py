"""The verdict on a pair of groups, decided from its p-values."""

from enum import StrEnum

LEVEL = 0.05  # significance level of every test, after correction


class Outcome(StrEnum):
    """The possible verdicts on a pair of groups."""

    UNTESTED = "untested"
    BETTER = "better"
    BETTER_HERE = "here"  # these trained models differ, but the groups may not: seeds were not varied
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def is_significant(p_documents: float | None, p_both: float | None, seeds_varied: bool) -> bool:
    """Return whether a difference is significant over documents and, if seeds were varied, also over seeds.

    The p-values are corrected; None means that the test was not made.
    """
    p_values = [p_documents, p_both] if seeds_varied else [p_documents]
    return all(p is not None and p < LEVEL for p in p_values)


def outcome_of(tested: bool, significant: bool, equivalent: bool, seeds_varied: bool) -> Outcome:
    """Return the verdict. A difference that is both significant and smaller than the margin is `BETTER`."""
    if not tested:
        return Outcome.UNTESTED
    if significant:
        return Outcome.BETTER if seeds_varied else Outcome.BETTER_HERE
    return Outcome.EQUIVALENT if equivalent else Outcome.UNDECIDED
