"""The typed keys of `conf/study.yaml`, which contains their defaults and descriptions."""

from collections.abc import Iterator
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, Unit

from imdbcls.config.command_keys import CommandSettings, read_command_keys
from imdbcls.config.key_types import MAX_SEED, Count, Finite, Positive, Seed
from imdbcls.config.section import Section

MAX_SEEDS = 1000  # per group


class SeedSettings(Section):
    max: Annotated[int, Ge(2), Le(MAX_SEEDS)]
    first: Annotated[int, Ge(2), Le(MAX_SEEDS)]
    start: Seed

    @property
    def planned(self) -> tuple[int, ...]:
        """The seeds of every group, in the order in which they are trained."""
        return tuple(range(self.start, self.start + self.max))


class BudgetSettings(Section):
    runs: Count | None
    hours: Annotated[Positive | None, Unit("hours")]


class StudySettings(CommandSettings):
    """The settings of a study: its seeds, margin, futility rule and budget."""

    margin: Annotated[Finite, Gt(0), Lt(100)] | None
    futility: bool
    seeds: SeedSettings
    budget: BudgetSettings

    def exclusions(self) -> Iterator[str]:
        seeds = self.seeds
        if seeds.first > seeds.max:
            yield f"seeds.first={seeds.first} is larger than seeds.max={seeds.max}."
        if seeds.start + seeds.max - 1 > MAX_SEED:
            yield f"seeds.start={seeds.start} is too large: the last seed would be above {MAX_SEED}."


def default_study_settings() -> StudySettings:
    """Return the settings in `conf/study.yaml`."""
    settings = read_command_keys([], StudySettings, "study.yaml").settings
    assert settings is not None
    return settings
