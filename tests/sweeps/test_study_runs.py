"""The cost of a study's runs, and the file with their times."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imdbcls.runs.folder import RunFolder
from imdbcls.runs.plan import Plan, PlannedGroup
from imdbcls.sweeps.study_runs import PlannedRun, StudyRuns, planned_runs
from imdbcls.sweeps.wall_times import FILE, WallTimes

PLAN = Plan(
    groups=tuple(PlannedGroup(name=name, group_hash=name, overrides=()) for name in ("a", "b", "c")),
    seeds=(5, 6, 7, 8),
    first_look=2,
    metric="accuracy",
    margin=None,
    futility=None,
)


class Recorded(StudyRuns):
    """Runs without configs and files, with a given result for each group and seed."""

    results: Mapping[str, Mapping[str, Any]]

    def folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(Path(f"{PLAN.groups[run.group].name}{PLAN.seeds[run.seed]}"))

    def result(self, run: PlannedRun) -> Mapping[str, Any] | None:
        return self.results.get(self.folder(run).path.name)


def runs_of(tmp_path: Path, results: Mapping[str, Mapping[str, Any]]) -> Recorded:
    runs = Recorded(PLAN, (None, None, None), WallTimes(tmp_path))  # type: ignore[arg-type]
    runs.results = results
    return runs


def test_runs_are_ordered_by_seed_so_that_all_groups_start_early() -> None:
    assert planned_runs([2, 0], 2) == [PlannedRun(0, 0), PlannedRun(0, 2), PlannedRun(1, 0), PlannedRun(1, 2)]


def test_finished_runs_are_those_before_the_first_gap(tmp_path: Path) -> None:
    done = {name: {"train_seconds": 1.0} for name in ("a5", "a6", "a8", "b5")}
    runs = runs_of(tmp_path, done)
    assert [len(runs.finished(group)) for group in range(3)] == [2, 1, 0]
    assert runs.num_finished == 3 and runs.num_planned == 12
    assert runs.missing([0, 1], 3) == [PlannedRun(1, 1), PlannedRun(2, 0), PlannedRun(2, 1)]


def test_recorded_times_come_before_train_seconds(tmp_path: Path) -> None:
    times = WallTimes(tmp_path)
    times.add("a5", 10.0)
    times.add("a5", 2.0)  # interrupted and continued
    times.add("c5", 7.0)  # failed
    runs = runs_of(tmp_path, {"a5": {"train_seconds": 3.0}, "a6": {"train_seconds": 4.0}, "b5": {"train_seconds": 0.5}})
    assert [runs.seconds(PlannedRun(seed, 0)) for seed in (0, 1, 2)] == [12.0, 4.0, None]
    assert runs.total_seconds == 12.0 + 4.0 + 0.5 + 7.0
    assert runs.expected_seconds({0: 2, 1: 1}) == 2 * 8.0 + 0.5
    assert runs.expected_seconds({2: 1}) == (8.0 + 0.5) / 2  # no finished run: the median of the groups
    assert runs_of(tmp_path, {}).expected_seconds({0: 1}) is None


def test_work_of_the_first_run_is_not_expected_of_later_runs(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, {"a5": {"train_seconds": 600.0}, "a6": {"train_seconds": 20}, "a7": {"train_seconds": 21}})
    assert runs.expected_seconds({0: 2}) == 42.0


@pytest.mark.parametrize("content", ["{", '{"format_version": 99, "seconds": {"a5": 1}}', "[]"])
def test_damaged_times_are_ignored(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    times = WallTimes(tmp_path)
    assert times.seconds == {}
    times.add("a5", 1.5)
    assert json.loads((tmp_path / FILE).read_text()) == {"format_version": 1, "seconds": {"a5": 1.5}}


def test_values_that_are_no_durations_are_ignored(tmp_path: Path) -> None:
    seconds = {"a5": 1, "a6": "2", "a7": -1, "a8": True, "b5": None}
    (tmp_path / FILE).write_text(json.dumps({"format_version": 1, "seconds": seconds}))
    assert WallTimes(tmp_path).seconds == {"a5": 1.0}
