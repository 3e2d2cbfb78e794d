"""The typed keys of `conf/tune.yaml`, which contains their defaults and descriptions."""

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Ge, Le, Unit

from imdbcls.config.command_keys import CommandSettings
from imdbcls.config.key_types import Count, Name, Positive, Seed
from imdbcls.config.section import Section
from imdbcls.config.study_settings import default_study_settings

DEFAULT_TRIALS = 20
MAX_WINNER_SEEDS = 1000
DEFAULT_WINNER_SEEDS = 3


class TuneBudget(Section):
    trials: Count | None
    hours: Annotated[Positive | None, Unit("hours")]

    @property
    def max_trials(self) -> int | None:
        """The number of trials per group; None: `hours` is the limit."""
        return DEFAULT_TRIALS if self.trials is None and self.hours is None else self.trials


class SpaceSettings(Section):
    lr: Name
    head_lr: Name

    @property
    def overrides(self) -> tuple[str, ...]:
        """The search space of a command that sweeps no key."""
        return f"lr={self.lr}", f"optimizer.head_lr={self.head_lr}"


class WinnerSettings(Section):
    seeds: Annotated[int, Ge(0), Le(MAX_WINNER_SEEDS)] | None
    study: bool

    @property
    def num_seeds(self) -> int:
        """The number of seeds per group. With `study`, this is the maximum number."""
        if self.seeds is None:
            return default_study_settings().seeds.max if self.study else DEFAULT_WINNER_SEEDS
        return self.seeds


class TuneSettings(CommandSettings):
    """The settings of a tuning study."""

    pruner: Literal["median", "asha", "none"]
    sampler: Literal["tpe", "random"]
    sampler_seed: Seed
    storage: Name | None
    space: SpaceSettings
    budget: TuneBudget
    winners: WinnerSettings

    def exclusions(self) -> Iterator[str]:
        budget = self.budget
        if budget.trials is not None and budget.hours is not None:
            yield (
                f"budget.trials={budget.trials} and budget.hours={budget.hours:g} cannot be combined: groups that "
                "reach different limits would have unequal budgets. Set one of them."
            )
        if self.winners.study and self.winners.num_seeds == 1:
            yield "winners.seeds=1 is too small for winners.study=true: a study needs at least 2 seeds per group."
        if self.storage is not None and "://" not in self.storage:
            yield (
                f"storage={self.storage} must be the URL of an SQL database, such as sqlite:///tuning.db. Leave "
                "storage out to use a journal file."
            )
