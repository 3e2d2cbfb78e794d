"""Convert a sweep in Hydra's syntax, such as `head=cls,lstm lr=1e-5,3e-5`, to groups of runs."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra import initialize_config_module
from hydra.core.override_parser.types import Override

from imdbcls.config.assignments import Assignment
from imdbcls.config.checking import typed
from imdbcls.config.composing import Loader
from imdbcls.config.options import CONF
from imdbcls.config.overrides import examine, without_hydra
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.printable import spelled
from imdbcls.runs.identity import group_hash

SEED = "seed"


@dataclass(frozen=True)
class GridGroup:
    """The runs of one combination of swept values. The runs differ only in their seeds.

    `overrides` are common to all runs, and `config` is the config with only these overrides. `name` is the name of the
    head, followed by the other swept keys with their values: `lstm lr=1e-05`.
    """

    name: str
    overrides: tuple[str, ...]
    config: Config
    loader: Loader

    @property
    def group_hash(self) -> str:
        return group_hash(self.config)

    def config_of(self, seed: int) -> Config:
        """Return the config of the run with this seed."""
        return composed(self.loader, [*self.overrides, f"{SEED}={seed}"])


@dataclass(frozen=True)
class Grid:
    """The groups of a sweep (none if it has mistakes), and an error message for each mistake."""

    groups: tuple[GridGroup, ...]
    mistakes: tuple[str, ...]


def read_grid(overrides: Sequence[str], folder: str | None, command_keys: Sequence[str], seed_advice: str) -> Grid:
    """Return a group for each combination of swept values.

    Seeds that an experiment sweeps are ignored. `seed` on the command line is a mistake, whose message ends with
    `seed_advice`. `folder` is the value of --config-dir. Messages can suggest `command_keys`.
    """
    refused, accepted = [], []
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key == SEED:
            refused.append(f"{text}: {seed_advice}")
        elif key.partition(".")[0].partition("/")[0] == "hydra":
            refused.append(f"{text}: Hydra does not run the jobs of this command. Leave this setting out.")
        else:
            accepted.append(text)
    try:
        examined = examine(accepted, "multirun", folder, command_keys)
    except UserError as error:  # a mistake that only Hydra detects
        return Grid((), (*refused, *str(error).splitlines()))
    mistakes = [*refused, *examined.mistakes]
    if mistakes:
        return Grid((), tuple(mistakes))
    return groups_of([each for each in examined.assignments if each.key != SEED], examined.loader)


def groups_of(assignments: Sequence[Assignment], loader: Loader) -> Grid:
    """Compose and check the config of each combination of values."""
    swept = {each.key for each in assignments if len(each.alternatives) > 1}
    groups: list[GridGroup] = []
    mistakes: list[str] = []
    for combination in itertools.product(*(each.alternatives for each in assignments)):
        lines = tuple(str(override.input_line) for override in combination)
        try:
            config = composed(loader, lines)
        except UserError as error:
            mistakes += str(error).splitlines()
            continue
        groups.append(GridGroup(name_of(config, combination, swept), lines, config, loader))
    mistakes += equal_groups(groups)
    return Grid(() if mistakes else tuple(groups), tuple(dict.fromkeys(mistakes)))


def composed(loader: Loader, overrides: Sequence[str]) -> Config:
    with initialize_config_module(CONF, version_base="1.3"):
        return typed(without_hydra(loader.compose(overrides)))


def name_of(config: Config, combination: Sequence[Override], swept: set[str]) -> str:
    """Return the head's name, followed by the other swept keys with their values."""
    others = [each for each in combination if each.key_or_group in swept and each.key_or_group != "head"]
    return " ".join([config.head.name, *(f"{each.key_or_group}={spelled(each.value())}" for each in others)])


def equal_groups(groups: Sequence[GridGroup]) -> Iterator[str]:
    """Yield an error message for each group that repeats an earlier group, for example if the swept key is `jobs`."""
    first: dict[str, GridGroup] = {}
    for group in groups:
        same = first.setdefault(group.group_hash, group)
        if same is not group:
            yield (
                f"{' '.join(group.overrides)} and {' '.join(same.overrides)} describe the same runs. Sweep only keys "
                "that can change a result, and list different values."
            )
