"""Estimate the cost of a tuning study without training: `python -m imdbcls.tune ... --dry-run`.

Each group is measured with one configuration, from the middle of the search space.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdbcls.config.grid import GridGroup, composed
from imdbcls.config.schema import Config
from imdbcls.config.space import Choices, Dimension, size_of, trials_study
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.printable import duration
from imdbcls.runtime import console
from imdbcls.runtime.text_table import text_table
from imdbcls.sweeps.cost import Estimate, GroupEstimate
from imdbcls.sweeps.cost_table import NOT_INCLUDED, disk_sentences, failures, measurement, page
from imdbcls.sweeps.estimate import WITHOUT_SPEED, estimate
from imdbcls.sweeps.slots import num_jobs

HEADER = ("group", "trials", "time per trial", "all trials", "winner runs", "time per run", "all runs")


def estimate_tuning(groups: Sequence[GridGroup], space: Sequence[Dimension], settings: TuneSettings) -> int:
    """Print the time and disk space of the trials and of the winners. Return 0, or 1 if a group cannot be measured.

    Raise UserError if the values in the middle of the search space cannot be combined.
    """
    values = [dimension.override(middle(dimension)) for dimension in space]
    configs = {group.name: composed(group.loader, [*group.overrides, *values]) for group in groups}
    config = next(iter(configs.values()))
    # In the study of the trials, no run counts as finished, so every group is measured.
    configs = {name: each.with_changes(study=trials_study(each.study)) for name, each in configs.items()}
    most, size = settings.budget.max_trials, size_of(space)
    measured = {name: [each] * (num_jobs(each) if most is None else most) for name, each in configs.items()}
    found = estimate(measured)
    console.write_out(report(found, config, values, settings, size, console.columns_of(sys.stdout)))
    return int(any(group.problem for group in found.groups))


def middle(dimension: Dimension) -> Any:
    """Return the value in the middle of an interval, or of a list in its given order."""
    if isinstance(dimension, Choices):
        return dimension.values[(len(dimension.values) - 1) // 2]
    low, high = dimension.low, dimension.high
    value = math.sqrt(low * high) if dimension.log else (low + high) / 2
    step = 1 if dimension.step is None and dimension.is_whole else dimension.step
    found = float(f"{value:.3g}") if step is None else low + step * round((value - low) / step)
    return min(max(found, low), high)


def report(
    found: Estimate, config: Config, values: Sequence[str], settings: TuneSettings, size: float, width: int | None
) -> str:
    """Return the estimate as text. `values` are the overrides of the measured configurations.

    `size` is the number of combinations in the search space, or infinite. `width` is the width of the terminal in
    characters; None if there is no terminal.
    """
    trials, winners = trials_of(found, settings, size), winners_of(found, settings)
    seconds = trials.seconds + winners.seconds
    disk = replace(winners, shared=found.shared)
    rows = [row(*pair) for pair in zip(trials.groups, winners.groups, strict=True)]
    table = text_table([*rows, total_row(trials, winners)], HEADER, width=width)
    sentences = (
        *failures(found),
        *method(values, settings),
        *earlier_trials(config),
        *disk_sentences(disk, config, max(trials.peak_bytes, winners.peak_bytes)),
        *measurement(trials, seconds),
        NOT_INCLUDED,
    )
    return page(f"about {duration(seconds)} on this machine", table, sentences, width)


def trials_of(found: Estimate, settings: TuneSettings, size: float) -> Estimate:
    """Return the estimate of the trials, including the work that is done only once."""
    return replace(found, groups=tuple(trials_of_group(group, settings, size) for group in found.groups))


def trials_of_group(group: GroupEstimate, settings: TuneSettings, size: float) -> GroupEstimate:
    """Return the estimate of a group's trials if none is pruned. Their folders are small when they have ended."""
    cost, budget = group.cost, settings.budget
    if cost is None:
        return group
    # Unlike a winner, a trial is not evaluated on test, and writes no predictions.
    seconds = group.seconds - cost.evaluate_seconds * cost.num_documents["test"] - cost.finish_seconds
    if budget.hours is None:
        assert budget.max_trials is not None  # one of the two limits is set
        num_trials = budget.max_trials
    else:
        num_trials = math.ceil(3600 * budget.hours / seconds)  # a trial that has begun is finished
    num_trials = int(min(num_trials, size))
    during = cost.finished_bytes + cost.training_bytes
    cost = replace(cost, finished_bytes=0.0, training_bytes=during, prediction_bytes=0.0)
    return replace(group, num_runs=num_trials, num_done=0, cost=cost, seconds=seconds)


def winners_of(found: Estimate, settings: TuneSettings) -> Estimate:
    """Return the estimate of the winner runs, without the work that the trials have already done."""
    num_runs = settings.winners.num_seeds
    total = max(1, num_runs * len(found.groups))
    groups = (replace(each, num_runs=num_runs, num_done=0, jobs=min(each.jobs, total)) for each in found.groups)
    return replace(found, groups=tuple(groups), shared=(), start_seconds=0.0)


def row(trials: GroupEstimate, winners: GroupEstimate) -> tuple[str, ...]:
    if trials.cost is None:
        return (trials.name, "", "not measured", "", "", "", "")
    parts = [(f"{each.num_runs}", duration(each.seconds), duration(each.total_seconds)) for each in (trials, winners)]
    return (trials.name, *parts[0], *parts[1])


def total_row(trials: Estimate, winners: Estimate) -> tuple[str, ...]:
    numbers = (
        f"{sum(group.num_runs for group in each.groups if group.cost is not None)}" for each in (trials, winners)
    )
    first, second = zip(numbers, (duration(trials.seconds), duration(winners.seconds)), strict=True)
    return ("total", first[0], "", first[1], second[0], "", second[1])


def method(values: Sequence[str], settings: TuneSettings) -> Iterator[str]:
    """Yield sentences on what the times assume."""
    keys = {text.lstrip("+").partition("=")[0].rpartition(".")[2] for text in values}
    yield f"Each group was measured in the middle of the search space, with {' '.join(values)}."
    if keys - (set(WITHOUT_SPEED) - {"epochs"}):
        yield "Trials with other values can take more or less time."
    if settings.pruner != "none" and settings.budget.hours is None:
        yield f"The trials take less time than that, because pruner={settings.pruner} ends some of them early."
    if settings.winners.study:
        yield "The number of winner runs is an upper limit: groups that are decided early save runs."


def earlier_trials(config: Config) -> Iterator[str]:
    """Yield a sentence if the study already has trials, which the estimate counts again."""
    folder = Path(config.runs_dir) / trials_study(config.study)
    if any(folder.glob("*/result.json")):
        yield f"{folder} already has trials. The estimate counts them again."
