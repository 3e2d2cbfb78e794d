"""Add seeds to a study until the verdict is known: `python -m imdbcls.study head=cls,lstm,mean seeds.max=10`.

Every combination of swept values is a group. The study trains all groups in rounds and tests the groups after
each round. A group gets no further seeds once it is worse than another group or equivalent to the best group.
`plan.json`, written before the first run, fixes when the groups are tested, so that the error rates hold for all of
these tests together.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imdbcls.config.cluster import read_cluster
from imdbcls.config.command_keys import names_of, read_arguments, read_command_keys
from imdbcls.config.commandline import DRY_RUN
from imdbcls.config.grid import Grid, GridGroup, read_grid
from imdbcls.config.study_settings import StudySettings
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.sweeps.adaptive import run_study
from imdbcls.sweeps.cluster import cluster_of
from imdbcls.train import train

KEYS = "study.yaml"
PLAN = "--plan"  # the same as --dry-run
HEADER = """\
Train runs in rounds, each with further seeds, until it is known which group is better.

  python -m imdbcls.study head=cls,lstm,mean seeds.max=10 study=heads
  python -m imdbcls.study head=cls,lstm,mean seeds.max=10 study=heads --dry-run   estimate the cost without training
  python -m imdbcls.study head=cls,lstm,mean hydra/launcher=submitit_slurm     train each round as Slurm jobs

Every combination of swept values, such as head=cls,lstm, is a group. The groups are tested after every round. Groups
that are worse than another or equivalent to the best get no further seeds. The same command continues a study. All
other keys are keys of python -m imdbcls.train (see its --help); the key seed is not accepted.

Keys of a study, with their defaults:"""
SEED_ADVICE = "the study itself chooses the seeds; set seeds.max and seeds.start instead."


@dataclass(frozen=True)
class Command:
    """A checked command: the settings of the study, its groups, and whether to estimate the cost without training.

    `launcher` has the settings of Hydra's Slurm launcher; None if the runs are trained on this machine.
    """

    settings: StudySettings
    groups: tuple[GridGroup, ...]
    only_plan: bool
    launcher: Mapping[str, Any] | None


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> int:
    """Run the command. Return the exit code: 0, 1 if a run failed, or 128 plus the number of a signal."""
    asked = read_command(sys.argv[1:])
    gc.freeze()  # exclude the loaded modules and the config from garbage collection, even in forked jobs
    if asked.only_plan:
        from imdbcls.sweeps.study_estimate import estimate_study  # imported here because training does not need it

        return estimate_study(asked.groups, asked.settings)
    with entry.stdout_is_secondary():
        return run_study(asked.groups, asked.settings, train, cluster_of(asked.launcher))


def read_command(arguments: Sequence[str]) -> Command:
    """Check the arguments. Raise UserError with all mistakes."""
    read = read_arguments(arguments, HEADER, KEYS, (DRY_RUN, PLAN))
    keys = read_command_keys(read.overrides, StudySettings, KEYS)
    launcher = read_cluster(keys.others)
    grid = read_grid(launcher.others, read.config_dir, names_of(StudySettings), SEED_ADVICE)
    mistakes = [*read.mistakes, *keys.mistakes, *launcher.mistakes, *grid.mistakes, *unfit(grid, keys.settings)]
    if mistakes or keys.settings is None:
        raise UserError(*mistakes)
    return Command(keys.settings, grid.groups, bool(read.flags), launcher.settings)


def unfit(grid: Grid, settings: StudySettings | None) -> Iterator[str]:
    """Yield a sentence for each reason why the groups or the budget cannot be used for a study."""
    if not grid.mistakes and len(grid.groups) < 2:
        yield "A study compares at least two groups: list several values, such as head=cls,lstm."
    metrics = sorted({group.config.metric for group in grid.groups})
    if len(metrics) > 1:
        yield f"metric={','.join(metrics)}: the groups of a study are compared by one metric. Set one value."
    if settings is not None and settings.budget.runs is not None:
        num_runs = settings.seeds.first * len(grid.groups)
        if settings.budget.runs < num_runs:
            yield (
                f"budget.runs={settings.budget.runs} is less than the {num_runs} runs before the first test of the "
                f"groups: {len(grid.groups)} groups with seeds.first={settings.seeds.first} seeds. Set a larger "
                "budget.runs."
            )


if __name__ == "__main__":
    command()
