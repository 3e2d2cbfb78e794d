"""The results of a tuning study: the trials of each group, and the expected validation metric of the best of n trials.

Values are validation metrics, and percentages are fractions of one. None means that a trial has no value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from imdbcls.comparison.expected_maximum import Expected, expected_best
from imdbcls.comparison.metrics import Metric

SEARCH_ELSEWHERE = (  # advice for trials that predict one class
    "Such a trial has learned nothing. Search another range of lr, or train more steps (more epochs or a smaller "
    "batch_size)."
)


@dataclass(frozen=True)
class TrialResult:
    """One trial. `state` is done, pruned, failed or open (not finished)."""

    number: int  # from 1
    state: str
    values: Mapping[str, Any]  # keys as in the search space
    value: float | None  # best validation metric of a finished or pruned trial
    seconds: float  # time of all its processes
    epochs: int  # number of epochs with a reported metric
    run: str  # name of its run folder
    only_class: str | None = None  # the only predicted class on validation; None: several classes


@dataclass(frozen=True)
class GroupResult:
    """The trials of one group, sorted by number."""

    name: str
    overrides: tuple[str, ...]
    trials: tuple[TrialResult, ...]
    expected: tuple[Expected, ...]  # the best of 1, 2, ... trials; empty: no value is known
    best: TrialResult | None  # the best finished trial (if several are equal, the first); None: no finished trial

    def count(self, state: str) -> int:
        """Return the number of trials with this state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def single_class(self) -> list[TrialResult]:
        """The trials that predict one class for all validation documents."""
        return [trial for trial in self.trials if trial.only_class is not None]

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    @property
    def seconds_per_trial(self) -> float:
        return self.seconds / max(1, sum(trial.state != "open" for trial in self.trials))


@dataclass(frozen=True)
class MostCommonClass:
    """The most common class of the validation documents, and its share: the accuracy of always predicting it."""

    name: str
    share: float


@dataclass(frozen=True)
class Lead:
    """The group with the best expected value in a range of budgets (numbers of trials, or hours).

    `group` is None if several groups have this value.
    """

    group: str | None
    start: float
    end: float


@dataclass(frozen=True)
class TuningResults:
    """A tuning study. `settings` has the budget, the pruner, the sampler and the search space as plain values."""

    study: str
    metric: Metric
    settings: Mapping[str, Any]
    groups: tuple[GroupResult, ...]
    most_common_class: MostCommonClass | None = None  # None: not recorded, or not the same for all trials

    @cached_property
    def leads_by_trials(self) -> tuple[Lead, ...]:
        """The leaders by number of trials, up to the number of ended trials in the smallest group."""
        return self._leads([float(n) for n in range(1, self._shared_trials + 1)], [1.0] * len(self.groups))

    @cached_property
    def leads_by_hours(self) -> tuple[Lead, ...]:
        """The leaders by hours of tuning.

        The range of hours starts when every group could have finished one trial, and ends when the first group has used
        all its trials.
        """
        costs = [group.seconds_per_trial / 3600 for group in self.groups]
        counts = [len(group.expected) for group in self.groups]
        if not min(counts, default=0) or min(costs) <= 0:
            return ()
        end = min(count * cost for count, cost in zip(counts, costs, strict=True))
        changes = {n * cost for count, cost in zip(counts, costs, strict=True) for n in range(1, count + 1)}
        return self._leads([hours for hours in sorted(changes) if max(costs) <= hours <= end], costs)

    @property
    def _shared_trials(self) -> int:
        return min((len(group.expected) for group in self.groups), default=0)

    def _leads(self, budgets: Sequence[float], costs: Sequence[float]) -> tuple[Lead, ...]:
        """Return the leader of each range of budgets. `costs` contains, for each group, the cost of one trial."""
        leaders = [(budget, self._leader(budget, costs)) for budget in budgets]
        runs = [list(found) for _, found in groupby(leaders, key=lambda pair: pair[1])]
        return tuple(Lead(run[0][1], run[0][0], run[-1][0]) for run in runs)

    def _leader(self, budget: float, costs: Sequence[float]) -> str | None:
        sign = 1 if self.metric.higher_is_better else -1
        expected = [
            sign * group.expected[int(budget / cost * (1 + 1e-9)) - 1].value
            for group, cost in zip(self.groups, costs, strict=True)
        ]
        leaders = np.flatnonzero(np.isclose(expected, max(expected), rtol=1e-9, atol=0.0))
        return self.groups[leaders[0]].name if len(leaders) == 1 else None


def group_results(
    groups: Sequence[tuple[str, tuple[str, ...], tuple[TrialResult, ...]]], metric: Metric
) -> tuple[GroupResult, ...]:
    """Return the results of each group, from its name, overrides and trials.

    A failed trial has no value. The expected best counts it as the worst trial of all groups, because a failed trial
    uses part of the budget and finds nothing.
    """
    sign = 1 if metric.higher_is_better else -1
    known = [trial.value for _, _, trials in groups for trial in trials if trial.value is not None]
    worst = min(known, key=lambda value: sign * value, default=None)
    results = []
    for name, overrides, trials in groups:
        ended = [trial for trial in trials if trial.state != "open"]
        values = [worst if trial.value is None else trial.value for trial in ended]
        found = [value for value in values if value is not None]
        best = max(
            (trial for trial in trials if trial.state == "done" and trial.value is not None),
            key=lambda trial: (sign * (trial.value or 0.0), -trial.number),
            default=None,
        )
        results.append(GroupResult(name, overrides, trials, expected_best(found, metric.higher_is_better), best))
    return tuple(results)
