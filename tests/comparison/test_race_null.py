"""Error rates of planned studies in simulated studies whose true differences are known.

The studies are those of `adaptive` in experiments/null_simulation, with fewer documents; its README has precise
numbers. A test after each seed without the levels for planned looks must leave the bounds that the plan keeps.
"""

from collections.abc import Callable

import numpy as np
import pytest
from adaptive import RULES, Rule, adaptive_studies
from draws import Setting

from imdbcls.comparison import sequential
from imdbcls.comparison.sequential import Sides, Spending

pytestmark = [pytest.mark.usefixtures("fast"), pytest.mark.slow]

PLANNED, FUTILE, NAIVE = RULES["planned looks"], RULES["planned looks, futility"], RULES["a test after each seed"]
FALSE_BETTER, IS_WORSE, RUNS, INTERVALS, DIFFERENCE, EQUIVALENT = range(6)


def setting_of(num_heads: int, behind: tuple[float, ...] = ()) -> Setting:
    """Return heads whose seeds vary much more than the documents cause, for which planned looks are least strict."""
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
    """Return a function that sets the level of every look to the total error rate."""

    def change() -> None:
        monkeypatch.setattr(sequential, "levels", every_level_is_the_error)
        sequential.error_of_level.cache_clear()

    yield change
    monkeypatch.undo()
    sequential.error_of_level.cache_clear()


def test_two_equal_heads_are_rarely_called_different() -> None:
    assert 0.03 <= false_better(2, PLANNED, 2_000, seed=1) <= 0.065


def test_two_equal_heads_with_a_mutation(mutate: Callable[[], None]) -> None:
    """The test above finds levels of 5 % at every look."""
    mutate()
    assert false_better(2, PLANNED, 400, seed=2) > 0.09


def test_a_test_after_each_seed_errs_too_often_with_two_heads() -> None:
    assert false_better(2, NAIVE, 600, seed=3) > 0.09


def test_seven_equal_heads_are_rarely_called_different() -> None:
    assert false_better(7, PLANNED, 1_000, seed=4) <= 0.04


def test_seven_equal_heads_with_a_mutation(mutate: Callable[[], None]) -> None:
    mutate()
    assert false_better(7, PLANNED, 250, seed=5) > 0.06
