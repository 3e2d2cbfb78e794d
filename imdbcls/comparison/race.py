"""Replay a planned study look by look: which groups continue, which are stopped, and why. A look is an interim test.

The decisions are a function of the plan and of the runs on disk. A study that was killed and continued therefore makes
the same decisions as a study that never stopped. For the same reason, `compare` reaches the same verdicts as the
command that trained the runs.

At each look, all pairs of running groups are tested with the first n planned seeds of each group (group sequential
Holm, see `sequential`). The leader is the best running group. A group is stopped, that is, gets no further seeds, if

- its next planned run failed,
- it is worse than a running group,
- it is equivalent to the leader, or
- with `futility`, its comparison with the leader would probably give no verdict, even with all planned seeds. This rule
  only stops groups, so it cannot cause a false "better".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np

from imdbcls.comparison.inference import Inference, Pair, infer
from imdbcls.comparison.power import chance_by_flat_prior
from imdbcls.comparison.sequential import Look, Spending
from imdbcls.comparison.statistics import Sample
from imdbcls.comparison.verdicts import LEVEL, Outcome
from imdbcls.runs.plan import Plan


class State(StrEnum):
    """What a planned study does with a group."""

    RUNNING = "running"
    WORSE = "worse"  # stopped: another running group is better
    EQUIVALENT = "equivalent"  # stopped: equivalent to the leader
    FUTILE = "futile"  # stopped: its comparison with the leader would probably give no verdict
    FAILED = "failed"  # stopped: its next run failed


@dataclass(frozen=True)
class Standing:
    """The state of a group after a look."""

    state: State = State.RUNNING
    other: int | None = None  # index of the group compared with this group; None if running or failed
    num_seeds: int | None = None  # seeds per group at the look that stopped this group; None for running groups
    chance: float | None = None  # chance of a verdict with all planned seeds; None unless the group is futile


@dataclass(frozen=True)
class Round:
    """One look at the study. Group indices refer to `Plan.groups`."""

    num_seeds: int  # seeds per tested group
    look: Look
    num_tests: int  # for Holm's correction: all planned pairs, except pairs found different at earlier looks
    inferences: Mapping[tuple[int, int], Inference]  # by pair (i, j), i < j, of the groups that were tested
    leader: int | None  # the best running group; None: a run of every running group failed
    standings: tuple[Standing, ...]  # after the look, one per group
    is_over: bool

    @property
    def running(self) -> list[int]:
        return [i for i, standing in enumerate(self.standings) if standing.state is State.RUNNING]

    @property
    def dropped(self) -> list[int]:
        """The groups that stopped at this look, including groups with a failed run."""
        return [i for i, standing in enumerate(self.standings) if standing.num_seeds == self.num_seeds]


def spending_of(plan: Plan) -> Spending:
    """Return the name of the function that spends the error rate over the looks.

    Studies of two groups use O'Brien and Fleming's function. Studies of more groups use the power function, because it
    stops clearly worse groups at earlier looks.
    """
    return "obrien_fleming" if len(plan.groups) == 2 else "power"


def race(
    samples: Sequence[Sample | None], plan: Plan, higher_is_better: bool = True, failed: Collection[int] = ()
) -> list[Round]:
    """Return all looks for which enough seeds are trained.

    `samples` has an entry for each planned group: a sample of its first planned seeds, or None if no seed is trained
    yet. All samples have the same units. The replay ends before the first look at which a running group lacks a seed.
    If that group is in `failed`, the replay continues without it.
    """
    standings = [Standing() for _ in plan.groups]
    different: set[tuple[int, int]] = set()  # pairs that an earlier look found different
    equivalent: set[tuple[int, int]] = set()
    rounds: list[Round] = []
    for index, num_seeds in enumerate(plan.looks):
        running = [i for i, standing in enumerate(standings) if standing.state is State.RUNNING]
        ready = [i for i in running if (sample := samples[i]) is not None and len(sample) >= num_seeds]
        for i in sorted(set(running) - set(ready)):
            if i not in failed:
                return rounds
            standings[i] = Standing(State.FAILED, num_seeds=num_seeds)
        look = Look(plan.information, index, spending_of(plan))
        num_tests = max(1, plan.num_pairs - len(different))
        # Equivalent pairs of running groups are tested again, so they still count as tests.
        num_equivalence_tests = max(1, plan.num_pairs - len(equivalent - set(combinations(ready, 2))))
        chosen = {i: first_seeds(samples[i], num_seeds) for i in ready}
        inferences = infer_pairs(chosen, plan, num_tests, num_equivalence_tests, look)
        different |= {pair for pair, inference in inferences.items() if inference.outcome is Outcome.BETTER}
        equivalent |= {pair for pair, inference in inferences.items() if is_equivalent(inference)}
        sign = 1 if higher_is_better else -1
        best_first = sorted(ready, key=lambda i: -sign * chosen[i].values_S.mean())
        for standing, i in worse_groups(inferences, best_first, num_seeds):
            standings[i] = standing
        left = [i for i in best_first if standings[i].state is State.RUNNING]
        is_last = num_seeds == plan.looks[-1]
        for i in left[1:]:
            inference = inferences[min(left[0], i), max(left[0], i)]
            if is_equivalent(inference):
                standings[i] = Standing(State.EQUIVALENT, left[0], num_seeds)
            elif plan.futility is not None and not is_last:
                final = Look(plan.information, len(plan.information) - 1, look.spending)
                chance = chance_of_verdict(inference, plan, final, (num_tests, num_equivalence_tests))
                if chance < plan.futility:
                    standings[i] = Standing(State.FUTILE, left[0], num_seeds, chance)
        num_running = sum(standing.state is State.RUNNING for standing in standings)
        rounds.append(
            Round(
                num_seeds=num_seeds,
                look=look,
                num_tests=num_tests,
                inferences=inferences,
                leader=left[0] if left else None,
                standings=tuple(standings),
                is_over=is_last or num_running < 2,
            )
        )
        if rounds[-1].is_over:
            break
    return rounds


def first_seeds(sample: Sample | None, num_seeds: int) -> Sample:
    assert sample is not None and len(sample) >= num_seeds
    return sample if len(sample) == num_seeds else sample.seeds(np.arange(num_seeds))


def infer_pairs(
    samples: Mapping[int, Sample], plan: Plan, num_tests: int, num_equivalence_tests: int, look: Look
) -> dict[tuple[int, int], Inference]:
    """Test every pair of the samples. Return the inferences, keyed by the indices of the groups.

    The intervals hold for all planned pairs together, including pairs that earlier looks decided.
    """
    groups = list(samples)
    pairs = [Pair(a, b) for a, b in combinations(range(len(groups)), 2)]
    found = infer(list(samples.values()), pairs, plan.margin, num_tests, num_equivalence_tests, look, plan.num_pairs)
    return {(groups[pair.a], groups[pair.b]): inference for pair, inference in zip(pairs, found, strict=True)}


def worse_groups(
    inferences: Mapping[tuple[int, int], Inference], best_first: Sequence[int], num_seeds: int
) -> list[tuple[Standing, int]]:
    """Return the standing and the index of each group that is worse than another group.

    If several groups are better, `Standing.other` is the best of them.
    """
    found = []
    for rank, i in enumerate(best_first):
        better = [j for j in best_first[:rank] if inferences[min(i, j), max(i, j)].outcome is Outcome.BETTER]
        if better:
            found.append((Standing(State.WORSE, better[0], num_seeds), i))
    return found


def is_equivalent(inference: Inference) -> bool:
    return inference.p_equivalence_holm is not None and inference.p_equivalence_holm < LEVEL


def chance_of_verdict(inference: Inference, plan: Plan, final: Look, num_tests: tuple[int, int]) -> float:
    """Return the chance that the last look leads to a verdict on a pair.

    `num_tests` contains the number of tests for "better" and the number of tests for "equivalent". The p-values of the
    last look are corrected for these numbers.
    """
    level, equivalence_level = final.level(LEVEL / num_tests[0]), final.level(LEVEL / num_tests[1], sides=1)
    return chance_by_flat_prior(inference.estimate, len(plan.seeds), (level, equivalence_level), plan.margin)
