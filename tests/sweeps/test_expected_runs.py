"""The expected number of runs of a planned study."""

import numpy as np
import pytest

from imdbcls.comparison.race import State, race
from imdbcls.runs.plan import Plan, PlannedGroup
from imdbcls.sweeps.expected_runs import detectable_difference, drawn_samples, expected_runs


def plan_of(num_groups: int, futility: float | None = None) -> Plan:
    groups = tuple(PlannedGroup(name=f"head {i}", group_hash=f"{i}", overrides=()) for i in range(num_groups))
    return Plan(groups=groups, seeds=tuple(range(10)), first_look=3, metric="accuracy", margin=0.003, futility=futility)


@pytest.mark.parametrize("num_groups", [2, 4])
def test_larger_differences_need_fewer_runs(num_groups: int) -> None:
    runs = [expected_runs(plan_of(num_groups), 25_000, step) for step in (0.0, 0.005, 0.01, 0.1)]
    assert runs == sorted(runs, reverse=True)
    assert 9.5 * num_groups < runs[0] <= 10 * num_groups  # equal groups are seldom decided early
    assert 3 * num_groups <= runs[-1] < 4 * num_groups  # clear differences are decided at the first looks


def test_more_documents_need_fewer_runs_and_futility_saves_runs() -> None:
    few, many = (expected_runs(plan_of(3), num_documents, 0.005) for num_documents in (1_000, 25_000))
    assert many < few
    assert expected_runs(plan_of(3, futility=0.1), 1_000, 0.0) < 0.8 * expected_runs(plan_of(3), 1_000, 0.0)


@pytest.mark.parametrize("num_documents", [320, 25_000])
def test_detectable_difference_is_found_in_80_percent_of_studies(num_documents: int) -> None:
    """These studies may end at any look. The detectable difference assumes a test only at the last look."""
    plan, generator = plan_of(2), np.random.default_rng(1)
    shifts = np.array([0.0, -detectable_difference(plan, num_documents)])
    last_looks = [race(drawn_samples(plan, num_documents, shifts, generator), plan)[-1] for _ in range(300)]
    assert 0.74 < np.mean([look.standings[1].state is State.WORSE for look in last_looks]) < 0.88


def test_detectable_difference_falls_with_documents_and_rises_with_groups() -> None:
    two = [detectable_difference(plan_of(2), num_documents) for num_documents in (320, 5_000, 25_000)]
    assert two == sorted(two, reverse=True)
    assert detectable_difference(plan_of(4), 5_000) > two[1]
