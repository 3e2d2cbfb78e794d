"""The verdict on a pair of groups."""

from enum import StrEnum

LEVEL = 0.05  # significance level of every test, after correction


class Outcome(StrEnum):
    """The possible verdicts on a pair of groups."""

    UNTESTED = "untested"
    BETTER = "better"
    BETTER_HERE = "here"  # holds only for the trained models, because a group has only one seed
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def outcome_of(tested: bool, significant: bool, equivalent: bool, seeds_varied: bool) -> Outcome:
    """Return the verdict. A significant difference takes precedence over equivalence."""
    if not tested:
        return Outcome.UNTESTED
    if significant:
        return Outcome.BETTER if seeds_varied else Outcome.BETTER_HERE
    return Outcome.EQUIVALENT if equivalent else Outcome.UNDECIDED
