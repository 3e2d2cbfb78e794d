"""Decide what a pair of groups shows. The views turn the decision into a sentence."""

from enum import StrEnum

LEVEL = 0.05  # of every test, after correction


class Outcome(StrEnum):
    """The verdict on a pair of groups."""

    UNTESTED = "untested"
    BETTER = "better"
    BETTER_HERE = "here"  # these trained models differ; seeds were not varied, so the groups need not
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def is_significant(p_documents: float | None, p_both: float | None, seeds_varied: bool) -> bool:
    """Require evidence over documents, and over documents and seeds where seeds were varied.

    Takes p-values after correction; None is a test that was not made.
    """
    p_values = [p_documents, p_both] if seeds_varied else [p_documents]
    return all(p is not None and p < LEVEL for p in p_values)


def outcome_of(tested: bool, significant: bool, equivalent: bool, seeds_varied: bool) -> Outcome:
    """Return the verdict; a difference that is both real and smaller than the margin is `BETTER`."""
    if not tested:
        return Outcome.UNTESTED
    if significant:
        return Outcome.BETTER if seeds_varied else Outcome.BETTER_HERE
    return Outcome.EQUIVALENT if equivalent else Outcome.UNDECIDED
