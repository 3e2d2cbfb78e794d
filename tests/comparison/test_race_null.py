"""Error rates of planned studies in simulated studies whose true differences are known.

The studies come from `adaptive` in experiments/null_simulation, with fewer documents. Its README has precise
numbers. With a test after each seed, but without the levels for planned looks, the error rates must exceed the bounds
that hold with a plan.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from adaptive import RULES, Rule, adaptive_studies, draw_compressed, standard_error
from draws import Setting, draw_outcomes, draw_samples

from imdbcls.comparison import sequential
from imdbcls.comparison.sequential import Sides, Spending

pytestmark = [pytest.mark.usefixtures("fast"), pytest.mark.slow]

PLANNED, FUTILE = RULES["planned looks"], RULES["planned looks, futility"]
NAIVE, NAIVE_OLD = RULES["a test after each seed"], RULES["a test after each seed, old rules"]
FALSE_BETTER, IS_WORSE, RUNS, INTERVALS = range(4)


def setting_of(num_heads: int, behind: tuple[float, ...] = ()) -> Setting:
    """Return heads for which planned looks are least strict: nearly all variance is between seeds."""
    return Setting((10,) * num_heads, (2.0,) * num_heads, 300, behind)


def false_better(num_heads: int, rule: Rule, num_studies: int, seed: int) -> float:
    found = adaptive_studies(setting_of(num_heads), [rule], np.random.default_rng([20, seed]), num_studies)
    return float(found[:, FALSE_BETTER].mean())


def every_level_is_the_error(
    error: float, information: tuple[float, ...], spending: Spending, sides: Sides = 2
) -> tuple[float, ...]:
    return (error,) * len(information)


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that gives every look the complete error rate as its level."""

    def change() -> None:
        monkeypatch.setattr(sequential, "levels", every_level_is_the_error)
        sequential.error_of_level.cache_clear()

    yield change
    monkeypatch.undo()
    sequential.error_of_level.cache_clear()


def test_two_equal_heads_are_rarely_called_different() -> None:
    assert 0.03 <= false_better(2, PLANNED, 2_000, seed=1) <= 0.065


def test_two_equal_heads_with_a_mutation(mutate: Callable[[], None]) -> None:
    """`test_two_equal_heads_are_rarely_called_different` would fail if every look had a level of 5 %."""
    mutate()
    assert false_better(2, PLANNED, 400, seed=2) > 0.09


def test_a_test_after_each_seed_errs_too_often_with_two_heads() -> None:
    assert false_better(2, NAIVE, 600, seed=3) > 0.09


def test_a_test_after_each_seed_errs_too_often_with_seven_heads() -> None:
    """The old rules err even more often: among other things, they lack the floor and shrinkage of the seed variance."""
    found = adaptive_studies(setting_of(7), [NAIVE, NAIVE_OLD], np.random.default_rng([20, 6]), 200)
    assert found[:, FALSE_BETTER].mean() > 0.06 and found[:, 6 + FALSE_BETTER].mean() > 0.12


def test_seven_equal_heads_are_rarely_called_different() -> None:
    assert false_better(7, PLANNED, 1_000, seed=4) <= 0.04


def test_seven_equal_heads_with_a_mutation(mutate: Callable[[], None]) -> None:
    mutate()
    assert false_better(7, PLANNED, 250, seed=5) > 0.06


def test_intervals_hold_although_the_study_stops_at_a_large_difference() -> None:
    setting = setting_of(2)
    setting = replace(setting, behind=(0.0, 2.9 * standard_error(setting)))
    found = adaptive_studies(setting, [PLANNED, NAIVE], np.random.default_rng([20, 7]), 400).mean(axis=0)
    assert found[INTERVALS] >= 0.94
    assert found[IS_WORSE] > 0.65 and found[RUNS] < 18
    assert found[6 + IS_WORSE] > found[IS_WORSE]  # the advantage of a test after each seed


def test_intervals_of_three_heads_hold_together() -> None:
    """Two heads are equal, and the third is far behind: after it is dropped, one of three pairs is left."""
    setting = replace(setting_of(3), behind=(0.0, 0.0, 30.0))
    found = adaptive_studies(setting, [PLANNED], np.random.default_rng([20, 8]), 400).mean(axis=0)
    assert found[INTERVALS] >= 0.95 and found[RUNS] < 24


def test_futility_saves_seeds_of_equal_heads_and_finds_no_more_differences() -> None:
    found = adaptive_studies(setting_of(2), [PLANNED, FUTILE], np.random.default_rng([20, 9]), 300)
    planned, futile = found[:, :6], found[:, 6:]
    assert (futile[:, FALSE_BETTER] <= planned[:, FALSE_BETTER]).all()
    assert futile[:, RUNS].mean() < 0.7 * planned[:, RUNS].mean()


def test_compressed_samples_have_the_same_p_values() -> None:
    """The simulation replaces the influences of documents by fewer numbers that have the same covariances."""
    setting = replace(setting_of(3), behind=(0.0, 1.0, 4.0))
    samples = draw_samples(setting, np.random.default_rng(1), setting.units())
    compressed = draw_compressed(setting, np.random.default_rng(1))
    for expected, found in zip(PLANNED.decide(samples), PLANNED.decide(compressed), strict=True):
        assert [each.state for each in found.standings] == [each.state for each in expected.standings]
        for pair, inference in expected.inferences.items():
            assert found.inferences[pair].p_value == pytest.approx(inference.p_value, rel=1e-4)
            assert found.inferences[pair].p_equivalence == pytest.approx(inference.p_equivalence, rel=1e-4)


def test_true_standard_error_is_that_of_many_studies() -> None:
    setting = Setting((4, 4), (0.5, 0.5), 1_000)
    generator = np.random.default_rng(3)
    studies = [draw_outcomes(setting, generator) for _ in range(3_000)]
    differences = [100 * (a_SN.mean() - b_SN.mean()) for a_SN, b_SN in studies]
    assert np.std(differences) == pytest.approx(standard_error(setting), rel=0.05)
