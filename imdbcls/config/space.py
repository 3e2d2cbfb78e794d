"""Read the groups that a tuning study compares, and its search space, from overrides in Hydra's syntax.

Swept groups (`head=cls,lstm`) are compared. Swept keys are the search space, which is the same for every group:
`lr='interval(1e-5,1e-3)'`, `lr='tag(log,interval(1e-5,1e-3))'`, `epochs='range(1,6)'` or `batch_size=16,32`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from imdbcls.config.assignments import Assignment
from imdbcls.config.grid import GridGroup, groups_of
from imdbcls.config.key_types import Neutral, SeedKey
from imdbcls.config.overrides import Examined, examine
from imdbcls.config.schema import declared
from imdbcls.errors import UserError

SEED = "seed"
LOG = "log"
# Groups and keys that select the validation metric, or the documents on which it is computed.
MEASURE = (
    *("metric", "data.split_seed", "data.train", "data.validation", "data.validation_split", "data.validation_limit"),
    *("data.validation_fraction", "data.test", "data.test_split", "data.test_fraction"),
)


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, including both ends.

    `is_whole` restricts them to whole numbers, and `step` to `low` plus multiples of `step`. With `log`, the sampler
    proposes values on a log scale.
    """

    key: str
    low: float
    high: float
    is_whole: bool = False
    log: bool = False
    step: float | None = None
    prefix: str = ""  # "+" for a key that the config does not list

    def override(self, value: Any) -> str:
        """Return the override that sets the key to a value of the interval."""
        return f"{self.prefix}{self.key}={int(value) if self.is_whole else float(value)!r}"

    @property
    def size(self) -> float:
        """The number of values; infinite for an interval of real numbers without a step."""
        step = 1 if self.step is None and self.is_whole else self.step
        return math.inf if step is None else 1 + math.floor((self.high - self.low) / step + 1e-8)

    def value_at(self, index: int) -> float:
        """Return the value with an index from 0 to `size` - 1 of an interval with a step."""
        value = self.low + index * (1 if self.step is None else self.step)
        return int(value) if self.is_whole else value

    def described(self) -> dict[str, Any]:
        """Return the interval as plain values, for a JSON file."""
        ends = [int(self.low), int(self.high)] if self.is_whole else [self.low, self.high]
        return {"interval": ends, **({"log": True} if self.log else {}), **({"step": self.step} if self.step else {})}


@dataclass(frozen=True)
class Choices:
    """A list of values, as they are written on the command line."""

    key: str
    values: tuple[str, ...]
    prefix: str = ""

    def override(self, value: Any) -> str:
        """Return the override that sets the key to one of the values."""
        return f"{self.prefix}{self.key}={value}"

    @property
    def size(self) -> float:
        """The number of values."""
        return len(self.values)

    def value_at(self, index: int) -> str:
        """Return the value with an index from 0 to `size` - 1."""
        return self.values[index]

    def described(self) -> dict[str, Any]:
        """Return the list as plain values, for a JSON file."""
        return {"choices": list(self.values)}


Dimension = Interval | Choices


@dataclass(frozen=True)
class TuningGrid:
    """The compared groups and the search space (both empty if there are mistakes), and an error message per mistake."""

    groups: tuple[GridGroup, ...]
    space: tuple[Dimension, ...]
    mistakes: tuple[str, ...]


def read_tuning(
    overrides: Sequence[str], folder: str | None, default_space: Sequence[str], command_keys: Sequence[str]
) -> TuningGrid:
    """Check the overrides of a tuning study.

    `folder` is the value of --config-dir. `default_space` has the overrides that are the search space if neither the
    command nor its experiment sweeps a key; it is empty if the command's own keys have mistakes. Messages can suggest
    `command_keys`.
    """
    refused, accepted = [], []
    for text in overrides:
        if text.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0] == "hydra":
            refused.append(f"{text}: Hydra does not run the jobs of this command. Leave this setting out.")
        else:
            accepted.append(text)
    assigned = {text.lstrip("+~").partition("=")[0] for text in accepted}
    try:
        examined = examine(accepted, "tune", folder, command_keys)
        assignments = tuned(examined, assigned)
        if not any(map(is_searched, assignments)):
            known = assigned | {each.key for each in assignments}
            defaults = [each for each in default_space if each.partition("=")[0] not in known]
            examined = examine([*accepted, *defaults], "tune", folder, command_keys)
            assignments = tuned(examined, assigned)
    except UserError as error:  # a mistake that only Hydra detects
        return TuningGrid((), (), (*refused, *str(error).splitlines()))
    mistakes = [*refused, *examined.mistakes, *refused_sweeps(assignments)]
    space, wrong = read_space([each for each in assignments if is_searched(each)])
    mistakes += wrong
    if not space and not mistakes and default_space:
        mistakes.append("There is nothing to tune: sweep a key, such as lr='tag(log,interval(1e-5,1e-3))'.")
    if mistakes:
        return TuningGrid((), (), tuple(dict.fromkeys(mistakes)))
    grid = groups_of([each for each in assignments if not is_searched(each)], examined.loader)
    mistakes = [*grid.mistakes, *(sentence for group in grid.groups for sentence in watched(group))]
    return TuningGrid(() if mistakes else grid.groups, space, tuple(dict.fromkeys(mistakes)))


def tuned(examined: Examined, assigned: Set[str]) -> list[Assignment]:
    """Return the assignments without the seeds of an experiment, because all trials have the same seed."""
    return [each for each in examined.assignments if each.key != SEED or SEED in assigned]


def is_searched(assignment: Assignment) -> bool:
    return not assignment.is_group and (assignment.is_interval or len(assignment.alternatives) > 1)


def refused_sweeps(assignments: Sequence[Assignment]) -> Iterator[str]:
    """Yield an error message for each swept key or group that must have the same value in all trials."""
    markers = {key: found for key, _, found in declared()}
    for assignment in assignments:
        if not is_searched(assignment) and len(assignment.alternatives) < 2:
            continue
        line, key = assignment.line, assignment.key
        neutral = Neutral in markers.get(key, ()) or key.partition(".")[0] in ("tracker", "checkpoint")
        if SeedKey in markers.get(key, ()):
            yield (
                f"{line}: a seed is not tuned. All trials have the same seed, and the winners get new seeds. Set one "
                "seed, or leave the key out."
            )
        elif key in MEASURE or (assignment.is_group and key == "data"):
            yield f"{line}: trials with different values of {key} cannot be compared. Set one value."
        elif neutral:
            yield f"{line}: {key} cannot change a result. Set one value."


def watched(group: GridGroup) -> Iterator[str]:
    if group.config.trainer.score_test_each_epoch:
        yield "trainer.score_test_each_epoch=true: tuning never evaluates the test split. Set this key to false."


def read_space(assignments: Sequence[Assignment]) -> tuple[tuple[Dimension, ...], list[str]]:
    """Return the search space, sorted by key, and an error message for each mistake."""
    space, mistakes = [], []
    for assignment in sorted(assignments, key=lambda each: each.key):
        try:
            space.append(dimension(assignment))
        except UserError as error:
            mistakes.append(str(error))
    return tuple(space), mistakes


def dimension(assignment: Assignment) -> Dimension:
    """Return the values of one swept key. Raise UserError for an empty interval or an unsuitable tag."""
    line, key = assignment.line, assignment.key
    (override,) = OverridesParser.create().parse_overrides([line])
    swept: Any = override.value()
    tags, prefix = {str(tag) for tag in swept.tags}, line[: len(line) - len(line.lstrip("+"))]
    if not isinstance(swept, IntervalSweep | RangeSweep):
        if tags:
            raise UserError(f"{line}: a list of values cannot have a tag. Leave the tag out.")
        values = tuple(str(each.input_line).partition("=")[2] for each in assignment.alternatives)
        return Choices(key, values, prefix)
    if tags - {LOG}:
        raise UserError(f"{line}: the only allowed tag is log, as in {key}='tag(log,interval(1e-5,1e-3))'.")
    low, high, step = limits(swept, assignment)
    is_whole = isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None)
    if low >= high:
        raise UserError(f"{line}: at least two values are needed. Write the smaller number first.")
    if tags and (low <= 0 or isinstance(swept, RangeSweep)):
        raise UserError(f"{line}: tag(log, …) needs interval(low,high) with low above 0.")
    return Interval(key, low, high, is_whole, bool(tags), step, prefix)


def limits(swept: IntervalSweep | RangeSweep, assignment: Assignment) -> tuple[float, float, float | None]:
    """Return the lowest and highest value, and the step of a range."""
    if isinstance(swept, IntervalSweep):
        assert swept.start is not None and swept.end is not None  # Hydra's grammar requires both
        return swept.start, swept.end, None
    assert swept.step is not None
    values = [each.value() for each in assignment.alternatives]
    return min(values), max(values), abs(swept.step)  # type: ignore[type-var, return-value]


def described(space: Sequence[Dimension]) -> Mapping[str, Any]:
    """Return the search space as a JSON object, with a plain value for each key."""
    return {each.key: each.described() for each in space}


def size_of(space: Sequence[Dimension]) -> float:
    """Return the number of combinations of values; infinite if a key has infinitely many values."""
    return math.prod(each.size for each in space)


def trials_study(study: str) -> str:
    """Return the name of the study that contains the trials of a tuning study."""
    return f"{study}-trials"


def wrong_study_name(groups: Sequence[GridGroup]) -> Iterator[str]:
    """Yield an error message if the name of the study is too long for the study of its trials."""
    for study in {group.config.study for group in groups}:
        try:
            groups[0].config.with_changes(study=trials_study(study))
        except UserError:
            yield f"study={study} is too long: its trials need the name {trials_study(study)}. Choose a shorter name."
