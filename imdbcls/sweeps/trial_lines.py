"""The parts of the lines that a tuning study logs about its trials."""

from collections.abc import Mapping, Sequence
from math import inf
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from imdbcls.config.tune_settings import TuneBudget
from imdbcls.printable import counted
from imdbcls.runs.selection import as_text
from imdbcls.sweeps.overview import label
from imdbcls.sweeps.trials import ONLY_CLASS, GroupTrials, seconds_of, value_of

SECONDS_PER_HOUR = 3600.0


def values_text(values: Mapping[str, Any]) -> str:
    """Return the values of a trial with three significant digits, such as `lr=5.26e-05 head_lr=92.8`.

    Keys are shown without their section, unless two keys would be equal.
    """
    names = [key.rpartition(".")[2] for key in values]
    keys = names if len(set(names)) == len(names) else list(values)
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in zip(keys, values.values(), strict=True)
    )


def limit_text(budget: TuneBudget, size: float) -> str:
    """Return the budget of a group, such as `20 trials`. `size` is the number of combinations in the search space."""
    whole = "" if size == inf else f"{counted(int(size), 'trial')} (the whole search space)"
    if budget.hours is None:
        assert budget.max_trials is not None  # one of the two limits is set
        return whole if size < budget.max_trials else counted(budget.max_trials, "trial")
    hours = f"{budget.hours:g} hour{'' if budget.hours == 1 else 's'}"
    return f"at most {hours} or {whole}" if whole else hours


def score_text(trials: GroupTrials, trial: FrozenTrial, metric: str) -> str:
    """Return the score of a finished or pruned trial, next to the best score of the finished trials of its group.

    Also say if the trial predicts one class for all validation documents.
    """
    best, score = trials.best(), as_text(metric, value_of(trial))
    if (only := trial.user_attrs.get(ONLY_CLASS)) is not None:
        score = f"{score}, predicts only {only!r}"
    if trial.state is TrialState.PRUNED:
        score = f"{score}, pruned after {counted(int(trial.user_attrs.get('epochs') or 0), 'epoch')}"
    if best is None:
        return score
    return f"{score} (best)" if best.number == trial.number else f"{score} (best {as_text(metric, value_of(best))})"


def number_of(groups: Sequence[GroupTrials], budget: TuneBudget) -> str:
    """Return the number of ended trials of all groups, with the number of all trials if it is known: `[3/40]`."""
    num_ended = sum(len(ended(trials)) for trials in groups)
    if budget.max_trials is None:
        return f"[{num_ended}]"
    return label(num_ended, sum(trials.max_trials or 0 for trials in groups))


def seconds_left(groups: Sequence[GroupTrials], budget: TuneBudget, jobs: int) -> float | None:
    """Return the expected time until all groups have used their budget, with `jobs` trials at a time.

    Each trial that has not ended is expected to take the mean time of the ended trials of its group, or of all ended
    trials if the group has none. A budget in hours limits this time. Return None if no trial has ended or no time is
    left.
    """
    every = [seconds_of(trial) for trials in groups for trial in ended(trials)]
    if not every:
        return None
    total = 0.0
    for trials in groups:
        times = [seconds_of(trial) for trial in ended(trials)]
        mean = fmean(times or every)
        left = inf if trials.max_trials is None else mean * max(0, trials.max_trials - len(times))
        if budget.hours is not None:
            left = min(left, max(0.0, budget.hours * SECONDS_PER_HOUR - sum(map(seconds_of, trials.trials()))))
        total += left
    return total / jobs if total > 0 else None


def ended(trials: GroupTrials) -> list[FrozenTrial]:
    return [trial for trial in trials.trials() if trial.state.is_finished()]
