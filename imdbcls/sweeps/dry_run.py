"""Estimate the cost of a training command without training: `python -m imdbcls.train --multirun ... --dry-run`."""

import itertools
import sys
from collections.abc import Sequence

from hydra import initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.types import RunMode

from imdbcls.config.checking import typed
from imdbcls.config.commandline import DRY_RUN, answer_command
from imdbcls.config.grid import SEED, name_of
from imdbcls.config.hydra_plugins import is_search
from imdbcls.config.options import CONF
from imdbcls.config.overrides import Examined, examine, without_hydra
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.runs.identity import config_hash, group_hash
from imdbcls.runtime import console
from imdbcls.sweeps.cost_table import report
from imdbcls.sweeps.estimate import estimate

SEEDS = (SEED, "data.order_seed")


def dry_run() -> int:
    """Print the estimate for the command line. Return 0, or 1 if a run cannot be measured.

    Raise UserError or SystemExit for mistakes in the command, as the command without `--dry-run` does.
    """
    arguments = answer_command([each for each in sys.argv[1:] if each != DRY_RUN])
    groups = groups_of_command(arguments)
    found = estimate(groups)
    console.write_out(report(found, next(iter(groups.values()))[0], console.columns_of(sys.stdout)))
    return int(any(group.problem for group in found.groups))


def groups_of_command(arguments: Sequence[str]) -> dict[str, list[Config]]:
    """Return the configs of the command's runs, keyed by the name of their group. `arguments` have been checked."""
    asked = get_args_parser().parse_args(list(arguments))
    for flag in ("cfg", "info", "hydra_help", "shell_completion"):
        if getattr(asked, flag):
            raise UserError(f"{DRY_RUN} and --{flag.replace('_', '-')} cannot be combined: use only one of them.")
    examined = examine(asked.overrides, "multirun" if asked.multirun else "run", asked.config_dir)
    return named_groups(examined, asked.multirun)


def named_groups(examined: Examined, is_multirun: bool) -> dict[str, list[Config]]:
    """Return the configs of all runs, keyed by the name of their group. Raise UserError with all mistakes."""
    swept = {each.key for each in examined.assignments if len(each.alternatives) > 1} - {*SEEDS}
    groups: dict[str, dict[str, Config]] = {}  # by group_hash and config_hash
    names: dict[str, str] = {}
    mistakes: list[str] = []
    for combination in itertools.product(*(each.alternatives for each in examined.assignments)):
        try:
            config = composed(examined, [str(override.input_line) for override in combination], is_multirun)
        except UserError as error:
            mistakes += str(error).splitlines()
            continue
        names.setdefault(group_hash(config), name_of(config, combination, swept))
        groups.setdefault(group_hash(config), {})[config_hash(config)] = config
    if mistakes:
        raise UserError(*dict.fromkeys(mistakes))
    return {names[key]: list(runs.values()) for key, runs in groups.items()}


def composed(examined: Examined, overrides: Sequence[str], is_multirun: bool) -> Config:
    """Return the config of one run. Raise UserError if a sweeper chooses the runs from earlier results."""
    with initialize_config_module(CONF, version_base="1.3"):
        found = examined.loader.compose(overrides)
    if not is_multirun and found.hydra.mode is not RunMode.MULTIRUN:
        return typed(without_hydra(found)).with_changes(jobs=1)  # a single run
    if is_search(found.hydra.sweeper):
        raise UserError(
            f"{DRY_RUN} needs to know all runs, but {found.hydra.sweeper._target_} chooses them from earlier results. "
            "Leave out hydra/sweeper, and list the values."
        )
    return typed(without_hydra(found))
