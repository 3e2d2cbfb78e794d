"""The parts of the lines that a tuning study logs about its trials."""

from collections.abc import Mapping, Sequence
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
    return f"[{num_ended}]" if budget.max_trials is None else label(num_ended, len(groups) * budget.max_trials)


def seconds_left(groups: Sequence[GroupTrials], budget: TuneBudget, jobs: int) -> float | None:
    """Return the expected time until all groups have used their budget, with `jobs` trials at a time.

    With a budget in trials, each trial that has not ended is expected to take the mean time of the ended trials of its
    group, or of all ended trials if the group has none. Return None if no trial has ended or no time is left.
    """
    every = [seconds_of(trial) for trials in groups for trial in ended(trials)]
    if not every:
        return None
    total = 0.0
    for trials in groups:
        times = [seconds_of(trial) for trial in ended(trials)]
        mean = fmean(times or every)
        if budget.max_trials is None:
            assert budget.hours is not None
            total += max(0.0, budget.hours * SECONDS_PER_HOUR - sum(map(seconds_of, trials.trials())))
        else:
            total += mean * max(0, budget.max_trials - len(times))
    return total / jobs if total > 0 else None


def ended(trials: GroupTrials) -> list[FrozenTrial]:
    return [trial for trial in trials.trials() if trial.state.is_finished()]
