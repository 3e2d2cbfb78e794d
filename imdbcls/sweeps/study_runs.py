"""The runs of a planned study: which are finished, and how much time they took and may still take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import median
from typing import Any

from imdbcls.config.grid import GridGroup
from imdbcls.config.schema import Config
from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runs.plan import Plan
from imdbcls.sweeps.wall_times import WallTimes, is_amount


@dataclass(frozen=True, order=True)
class PlannedRun:
    """A run of the plan, as indices into `Plan.seeds` and `Plan.groups`. Sorted runs are in the order of training."""

    seed: int
    group: int


@dataclass
class StudyRuns:
    """The runs of a study. `groups` are in the order of the plan. Finished runs are read once."""

    plan: Plan
    groups: Sequence[GridGroup]
    times: WallTimes
    _configs: dict[PlannedRun, Config] = field(default_factory=dict)
    _results: dict[PlannedRun, Mapping[str, Any]] = field(default_factory=dict)

    def config(self, run: PlannedRun) -> Config:
        if run not in self._configs:
            self._configs[run] = self.groups[run.group].config_of(self.plan.seeds[run.seed])
        return self._configs[run]

    def folder(self, run: PlannedRun) -> RunFolder:
        return run_folder(self.config(run))

    def result(self, run: PlannedRun) -> Mapping[str, Any] | None:
        """Return the result of a run if it is complete, else None."""
        if run not in self._results and (result := self.folder(run).complete()) is not None:
            self._results[run] = result
        return self._results.get(run)

    def require_same_documents(self) -> None:
        """Raise UserError if two of the finished runs that were read have different documents."""
        first: tuple[str, Any] | None = None
        for run, result in self._results.items():
            found = (self.folder(run).path.name, result["split_hash"])
            first = first or found
            if found[1] != first[1]:
                raise UserError(
                    f"{first[0]} and {found[0]} have different documents (split_hash). The groups of a study must have "
                    "the same training, validation and test documents. Correct the keys that start with "
                    "data, and choose a new name with study=NAME."
                )

    def planned(self) -> list[PlannedRun]:
        """Return all runs of the plan, in the order of training."""
        return planned_runs(range(len(self.groups)), len(self.plan.seeds))

    def missing(self, groups: Iterable[int], num_seeds: int) -> list[PlannedRun]:
        """Return the unfinished runs among the first seeds of some groups, in the order of training."""
        return [run for run in planned_runs(groups, num_seeds) if self.result(run) is None]

    def finished(self, group: int) -> list[PlannedRun]:
        """Return the runs of a group before its first unfinished run."""
        runs = planned_runs([group], len(self.plan.seeds))
        return list(takewhile(lambda run: self.result(run) is not None, runs))

    @property
    def num_finished(self) -> int:
        return sum(len(self.finished(group)) for group in range(len(self.groups)))

    @property
    def num_planned(self) -> int:
        return len(self.groups) * len(self.plan.seeds)

    def values(self, group: int, num_seeds: int) -> list[float]:
        """Return the test metric of the finished runs among the first seeds of a group; skip undefined values."""
        results = [self.result(run) or {} for run in planned_runs([group], num_seeds)]
        values = [result.get(f"test/{self.plan.metric}") for result in results]
        return [value for value in values if is_amount(value)]

    def seconds(self, run: PlannedRun) -> float | None:
        """Return the recorded wall time of a finished run, or its `train_seconds` if no wall time is recorded.

        Return None if the run is not finished, or if neither time is recorded.
        """
        result = self.result(run)
        if result is None:
            return None
        seconds = self.times.seconds.get(self.folder(run).path.name, result.get("train_seconds"))
        return seconds if is_amount(seconds) else None

    @property
    def total_seconds(self) -> float:
        """The time that all runs took, including runs that failed or were interrupted."""
        finished = [run for group in range(len(self.groups)) for run in self.finished(group)]
        seconds = {self.folder(run).path.name: self.seconds(run) or 0.0 for run in finished}
        return sum({**seconds, **self.times.seconds}.values())

    def expected_seconds(self, num_runs: Mapping[int, int]) -> float | None:
        """Return the expected time of `num_runs` runs of each group, from the median of the group's finished runs.

        The first run can take longer, for example because it encodes the documents for a frozen encoder, but this
        hardly affects the median. For a group without finished runs, use the median of the other groups. Return None if
        no run is finished.
        """
        medians = {group: self._median_seconds(group) for group in range(len(self.groups))}
        known = [each for each in medians.values() if each is not None]
        if not known:
            return None
        return sum(count * (medians[group] or median(known)) for group, count in num_runs.items())

    def _median_seconds(self, group: int) -> float | None:
        seconds = [taken for run in self.finished(group) if (taken := self.seconds(run)) is not None]
        return median(seconds) if seconds else None


def planned_runs(groups: Iterable[int], num_seeds: int) -> list[PlannedRun]:
    """Return the runs of some groups with the first seeds of the plan: one seed of every group, then the next seed."""
    return sorted(PlannedRun(seed, group) for group in groups for seed in range(num_seeds))
