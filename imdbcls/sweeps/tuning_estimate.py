"""Estimate the cost of a tuning study without training: `python -m imdbcls.tune ... --dry-run`.

Each group is measured with one configuration, from the middle of the search space.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imdbcls.config.grid import GridGroup, composed
from imdbcls.config.schema import Config
from imdbcls.config.space import Choices, Dimension, trials_study
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.printable import duration
from imdbcls.runtime import console
from imdbcls.runtime.text_table import text_table, wrapped
from imdbcls.sweeps.cost import Estimate, GroupEstimate
from imdbcls.sweeps.cost_table import NOT_INCLUDED, WIDTH, disk_sentences, failures, measurement
from imdbcls.sweeps.estimate import estimate
from imdbcls.sweeps.slots import num_jobs

HEADER = ("group", "trials", "time per trial", "all trials", "winner runs", "time per run", "all runs")
# Searched keys that affect neither the time per step nor the number of steps.
WITHOUT_TIME = ("lr", "optimizer.head_lr", "warmup", "schedule", "optimizer.weight_decay")


@dataclass(frozen=True)
class GroupCost:
    """The estimated trials and winner runs of one group.

    `trial_seconds` and `winner_seconds` are the wall times of one trial that is not pruned and of one winner run.
    `max_seconds` limits the time of the group's trials; None: there is no limit. `jobs` and `winner_jobs` are the
    numbers of trials and of winner runs that train at the same time. They may belong to different groups.
    """

    name: str
    num_trials: int
    num_winners: int
    trial_seconds: float
    winner_seconds: float
    jobs: int
    winner_jobs: int
    max_seconds: float | None

    @property
    def trials_seconds(self) -> float:
        """The wall time of the group's trials if none is pruned, with `jobs` trials at a time."""
        seconds = self.num_trials * self.trial_seconds if self.max_seconds is None else self.max_seconds
        return seconds / self.jobs

    @property
    def winners_seconds(self) -> float:
        return self.num_winners * self.winner_seconds / self.winner_jobs


def estimate_tuning(groups: Sequence[GridGroup], space: Sequence[Dimension], settings: TuneSettings) -> int:
    """Print the time and disk space of the trials and of the winners. Return 0, or 1 if a group cannot be measured.

    Raise UserError if the values in the middle of the search space cannot be combined.
    """
    values = [dimension.override(middle(dimension)) for dimension in space]
    configs = {group.name: composed(group.loader, [*group.overrides, *values]) for group in groups}
    config = next(iter(configs.values()))
    # In the study of the trials, no run counts as finished, so every group is measured.
    configs = {name: each.with_changes(study=trials_study(each.study)) for name, each in configs.items()}
    most = settings.budget.max_trials
    measured = {name: [each] * (num_jobs(each) if most is None else most) for name, each in configs.items()}
    found = estimate(measured)
    num_winners = len(groups) * settings.winners.num_seeds
    costs = [cost_of(group, settings, max(1, min(group.jobs, num_winners))) for group in found.groups]
    width = console.columns_of(sys.stdout)
    table = text_table([*map(row, found.groups, costs), total_row(found, costs)], HEADER, width=width)
    sentences = (
        *failures(found),
        *method(values, settings),
        *earlier_trials(config),
        *disk_sentences(with_winners(found, settings), config),
        *measurement(found),
        NOT_INCLUDED,
    )
    head = f"Estimate before anything trains: about {duration(total_seconds(found, costs))} on this machine."
    lines = [head, "", table, "", *sentences]
    console.write_out("\n".join(line if line is table else wrapped(line, width or WIDTH) for line in lines))
    return int(any(group.problem for group in found.groups))


def middle(dimension: Dimension) -> Any:
    """Return the value in the middle of an interval, or of a list in its given order."""
    if isinstance(dimension, Choices):
        return dimension.values[(len(dimension.values) - 1) // 2]
    low, high = dimension.low, dimension.high
    value = math.sqrt(low * high) if dimension.log else (low + high) / 2
    step = dimension.step or (1 if dimension.is_whole else None)
    return float(f"{value:.3g}") if step is None else low + step * round((value - low) / step)


def cost_of(group: GroupEstimate, settings: TuneSettings, winner_jobs: int) -> GroupCost | None:
    """Return the cost of a group's trials and winners; None if the group cannot be measured."""
    if group.cost is None:
        return None
    # Unlike a winner, a trial is not evaluated on test, and writes no predictions.
    only_winners = group.cost.evaluate_seconds * group.cost.num_documents["test"] + group.cost.finish_seconds
    trial_seconds = group.seconds - only_winners
    budget, max_seconds = settings.budget, None if settings.budget.hours is None else 3600 * settings.budget.hours
    if max_seconds is None:
        assert budget.max_trials is not None  # one of the two limits is set
        num_trials = budget.max_trials
    else:
        num_trials = math.ceil(max_seconds / trial_seconds)
    return GroupCost(
        name=group.name,
        num_trials=num_trials,
        num_winners=settings.winners.num_seeds,
        trial_seconds=trial_seconds,
        winner_seconds=group.seconds,
        jobs=group.jobs,
        winner_jobs=winner_jobs,
        max_seconds=max_seconds,
    )


def row(group: GroupEstimate, cost: GroupCost | None) -> tuple[str, ...]:
    if cost is None:
        return (group.name, "", "not measured", "", "", "", "")
    trials = (f"{cost.num_trials}", duration(cost.trial_seconds), duration(cost.trials_seconds))
    return (group.name, *trials, f"{cost.num_winners}", duration(cost.winner_seconds), duration(cost.winners_seconds))


def total_row(found: Estimate, costs: Sequence[GroupCost | None]) -> tuple[str, ...]:
    known = [cost for cost in costs if cost is not None]
    trials, winners = sum(each.num_trials for each in known), sum(each.num_winners for each in known)
    times = (sum(each.trials_seconds for each in known), sum(each.winners_seconds for each in known))
    return ("total", f"{trials}", "", duration(times[0] + found.once_seconds), f"{winners}", "", duration(times[1]))


def total_seconds(found: Estimate, costs: Sequence[GroupCost | None]) -> float:
    """Return the wall time of all trials and winners, including the work that is done only once."""
    return found.once_seconds + sum(each.trials_seconds + each.winners_seconds for each in costs if each is not None)


def with_winners(found: Estimate, settings: TuneSettings) -> Estimate:
    """Return the estimate with the winners instead of the trials, to estimate the disk space.

    Trials need little disk space, because their checkpoints are removed when they end.
    """
    num_runs = settings.winners.num_seeds
    return replace(found, groups=tuple(replace(group, num_runs=num_runs, num_done=0) for group in found.groups))


def method(values: Sequence[str], settings: TuneSettings) -> Iterator[str]:
    """Yield sentences on what the times assume."""
    slower = [text for text in values if text.lstrip("+").partition("=")[0] not in WITHOUT_TIME]
    yield f"Each group was measured in the middle of the search space, with {' '.join(values)}."
    if slower:
        yield f"Trials with other values of {', '.join(text.partition('=')[0] for text in slower)} can take longer."
    if settings.pruner != "none" and settings.budget.hours is None:
        yield f"The times of the trials are upper limits: pruner={settings.pruner} ends some of them early."
    if settings.winners.study:
        yield "The number of winner runs is an upper limit: groups that are decided early save runs."


def earlier_trials(config: Config) -> Iterator[str]:
    """Yield a sentence if the study already has trials, which the estimate counts again."""
    folder = Path(config.runs_dir) / trials_study(config.study)
    if folder.exists():
        yield f"{folder} already has trials. The estimate counts them again."
