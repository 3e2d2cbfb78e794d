"""The plan of a study that adds seeds until the verdicts are known or all planned seeds are used: `plan.json`.

At each look, the groups are compared with the seeds that are finished. The plan is fixed before the first look, because
the error rates of the study depend on the plan.
"""

import json
from pathlib import Path
from typing import Annotated, Self

from annotated_types import Ge, Gt, Len, Lt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from imdbcls.errors import UserError
from imdbcls.printable import printable_line
from imdbcls.runs.files import json_text
from imdbcls.runs.format_version import FORMAT_VERSION, PLAN, read_versioned
from imdbcls.runs.selection import TITLES
from imdbcls.runtime.atomic import write_atomically

FILE = "plan.json"
MAX_GROUPS, MAX_SEEDS = 1_000, 1_000
MAX_REASON = 200  # characters of a validation error that are shown

Text = Annotated[str, Len(1, 1_000)]
Positive = Annotated[float, Gt(0)]


class Fixed(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class PlannedGroup(Fixed):
    """A group of the plan: a config without its seed."""

    name: Text  # unique in the plan
    group_hash: Text
    overrides: tuple[str, ...]  # overrides of the training command, without the seed


class Plan(Fixed):
    """Which groups are trained with which seeds, and when and how the groups are compared.

    The first look compares the groups with `first_look` seeds each. Each later look adds one seed per group, until all
    `seeds` are used.
    """

    groups: Annotated[tuple[PlannedGroup, ...], Len(2, MAX_GROUPS)]
    seeds: Annotated[tuple[Annotated[int, Ge(0)], ...], Len(2, MAX_SEEDS)]  # in the order of training
    first_look: Annotated[int, Ge(2)]  # seeds per group
    metric: str  # a key of `selection.TITLES`
    margin: Positive | None  # for equivalence, as a fraction (0.003 is 0.3 points); None: equivalence is not tested
    # A group is stopped if its chance of a verdict is lower than this number. None: there is no such rule.
    futility: Annotated[float, Gt(0), Lt(1)] | None

    @model_validator(mode="after")
    def _require_consistent(self) -> Self:
        if self.first_look > len(self.seeds):
            raise ValueError(f"first_look={self.first_look} is more than the {len(self.seeds)} seeds")
        if self.metric not in TITLES:
            raise ValueError(f"metric={self.metric} is not one of {', '.join(TITLES)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice")
        for field in ("name", "group_hash"):
            if len({getattr(group, field) for group in self.groups}) < len(self.groups):
                raise ValueError(f"two groups have the same {field}")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """The number of seeds per group at each look, ascending."""
        return tuple(range(self.first_look, len(self.seeds) + 1))

    @property
    def information(self) -> tuple[float, ...]:
        """The fraction of the planned seeds that each look uses."""
        return tuple(num_seeds / len(self.seeds) for num_seeds in self.looks)

    @property
    def num_pairs(self) -> int:
        return len(self.groups) * (len(self.groups) - 1) // 2

    def difference(self, other: "Plan") -> str | None:
        """Return how another plan differs, such as "margin is 0.005 instead of 0.003", or None if it does not.

        Groups are compared by `group_hash`, not by their names, overrides or order.
        """
        if self == other:
            return None
        clauses = []
        mine, others = ({group.group_hash: group.name for group in plan.groups} for plan in (self, other))
        if removed := [name for key, name in mine.items() if key not in others]:
            clauses.append(f"without {', '.join(removed)}")
        if added := [name for key, name in others.items() if key not in mine]:
            clauses.append(f"also with {', '.join(added)}")
        for field in ("seeds", "first_look", "metric", "margin", "futility"):
            before, now = getattr(self, field), getattr(other, field)
            if before != now:
                before, now = (f"{len(x)} ({x[0]} to {x[-1]})" if isinstance(x, tuple) else x for x in (before, now))
                clauses.append(f"{field} is {now} instead of {before}")
        return "; ".join(clauses) or None


def write_plan(study: Path, plan: Plan) -> None:
    study.mkdir(parents=True, exist_ok=True)
    content = {FORMAT_VERSION: PLAN, **plan.model_dump(mode="json")}
    write_atomically(study / FILE, json_text(content, indent=2) + "\n")


def has_plan(study: Path) -> bool:
    return (study / FILE).exists() or (study / FILE).is_symlink()


def read_plan(study: Path) -> Plan:
    """Read the plan of a study. Raise UserError if the plan is damaged or has another format version."""
    path = study / FILE
    content = read_versioned(path, PLAN)
    try:
        return Plan.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = f" at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
        reason = printable_line(first["msg"].removeprefix("Value error, ")[:MAX_REASON])
        raise UserError(f"{path} is not a valid plan{printable_line(place[:MAX_REASON])}: {reason}.") from error
