"""Tune the compared groups with equal budgets: `python -m imdbcls.tune head=cls,lstm budget.trials=20`.

Propose values with Optuna → train trials, without the test split → write tuning.{json,csv,html} → train the best
configuration of each group again with new seeds. All mistakes are reported before any heavy import.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from imdbcls.config.cluster import read_cluster
from imdbcls.config.command_keys import names_of, read_arguments, read_command_keys
from imdbcls.config.commandline import DRY_RUN
from imdbcls.config.space import TuningGrid, read_tuning, wrong_study_name
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.console import columns_of, write_out
from imdbcls.train import train

if TYPE_CHECKING:
    from imdbcls.sweeps.cluster import Cluster
    from imdbcls.sweeps.tuning import Tuning

logger = logging.getLogger("imdbcls.tune")  # `__name__` is `__main__` when this module runs as a command

FILE = "tune.yaml"
HEADER = """\
Tune groups with equal budgets, and train the best configuration of each.

  python -m imdbcls.tune head=cls,lstm budget.trials=20                compare two heads, with the default search space
  python -m imdbcls.tune head=cls,lstm lr='tag(log,interval(1e-5,1e-3))' batch_size=16,32   search these keys
  python -m imdbcls.tune head=cls,lstm budget.trials=20 --dry-run      estimate hours and disk space without training
  python -m imdbcls.tune head=cls,lstm jobs=8 hydra/launcher=submitit_slurm       train eight trials at a time on Slurm

Swept groups (head=cls,lstm) are compared. Swept keys are the search space, which is the same for every group; each has
an interval, a range or a list of values. Every group gets the same budget. All other keys are keys of
python -m imdbcls.train. Trials are not evaluated on test. The same command continues after an interruption, and
several machines that share runs_dir can run it at the same time.

Keys of tuning, with their defaults:"""


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> int:
    """Run the command. Return the exit code: 0, 1 if trials or winners are not done, or 128 plus a signal's number."""
    asked = read_command(sys.argv[1:])
    if asked.only_estimate:
        from imdbcls.sweeps.tuning_estimate import estimate_tuning  # imported here because tuning does not need it

        return estimate_tuning(asked.grid.groups, asked.grid.space, asked.settings)
    from imdbcls.sweeps.cluster import cluster_of
    from imdbcls.sweeps.tuning import Tuning

    gc.freeze()  # exclude the loaded modules and the configs from garbage collection, even in forked jobs
    with entry.stdout_is_secondary():  # the results are in files
        cluster = cluster_of(asked.launcher)
        tuning = Tuning(asked.grid.groups, asked.grid.space, asked.settings, train, cluster)
        tuning.run()
        code = tuning.sweep.conclude()
        logger.info("")
        report(tuning)
        if tuning.num_open:
            trials = "1 trial is" if tuning.num_open == 1 else f"{tuning.num_open} trials are"
            logger.info(f"{trials} not finished. Run the same command again to continue.")
        elif tuning.sweep.stopped_by is not None:
            logger.info("Run the same command again to continue.")
        if tuning.sweep.stopped_by is not None:
            return code
        return 1 if tuning.num_open else train_best(tuning, asked.settings, cluster)


@dataclass(frozen=True)
class Command:
    """A checked command: its settings, its groups and search space, and whether to estimate the cost without training.

    `launcher` has the settings of Hydra's Slurm launcher; None if the trials are trained on this machine.
    """

    settings: TuneSettings
    grid: TuningGrid
    only_estimate: bool
    launcher: Mapping[str, Any] | None


def read_command(arguments: Sequence[str]) -> Command:
    """Check the arguments. Raise UserError with all mistakes."""
    asked = read_arguments(arguments, HEADER, FILE, (DRY_RUN,))
    keys = read_command_keys(asked.overrides, TuneSettings, FILE)
    default_space = () if keys.settings is None else keys.settings.space.overrides
    launcher = read_cluster(keys.others)
    grid = read_tuning(launcher.others, asked.config_dir, default_space, names_of(TuneSettings))
    mistakes = [*asked.mistakes, *keys.mistakes, *launcher.mistakes, *grid.mistakes, *wrong_study_name(grid.groups)]
    if find_spec("optuna") is None:
        mistakes.append("imdbcls.tune needs Optuna. Install it with: pip install optuna.")
    if keys.settings is not None and keys.settings.winners.study and len(grid.groups) == 1:
        mistakes.append("winners.study=true needs two or more groups, such as head=cls,lstm.")
    if mistakes:
        raise UserError(*mistakes)
    assert keys.settings is not None  # if it is None, `keys.mistakes` is not empty
    return Command(keys.settings, grid, DRY_RUN in asked.flags, launcher.settings)


def report(tuning: "Tuning") -> None:
    """Write tuning.json, tuning.csv and tuning.html, and print the summary."""
    from imdbcls.comparison.views.tuning_files import write_tuning_files
    from imdbcls.comparison.views.tuning_text import tuning_text

    results = tuning.results()
    with tuning.claims.exclusively():
        write_tuning_files(tuning.folder, results)
    write_out(f"{tuning_text(results, columns_of(sys.stdout))}\n\nThe page is {tuning.folder / 'tuning.html'}", {})


def train_best(tuning: "Tuning", settings: TuneSettings, cluster: "Cluster | None") -> int:
    """Train the winners with new seeds and return the exit code."""
    from imdbcls.sweeps.publishing import publish_sweep
    from imdbcls.sweeps.winners import study_winners, train_winners

    logger.info("")
    winners = tuning.winners()
    tuning.log_best()
    if len(winners) < len(tuning.groups):
        logger.error(
            "At least one group has no finished trial, so no winners are trained. Set a larger budget, or change the "
            "search space and choose another study=NAME."
        )
        return 1
    num_seeds = settings.winners.num_seeds
    if num_seeds == 0:
        logger.info(
            "The same command with winners.seeds=3 trains these configurations with new seeds and "
            "evaluates them on test."
        )
        return 0
    if settings.winners.study:
        return study_winners(winners, num_seeds, train, cluster)
    sweep = train_winners(winners, num_seeds, tuning.claims, train, cluster, tuning.sweep.messages)
    code = sweep.conclude()
    publish_sweep(sweep)
    return code


if __name__ == "__main__":
    command()
