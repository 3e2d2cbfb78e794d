"""Levels of repeated tests: published values, simulated random walks, and repeated p-values that invert the levels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imdbcls.comparison.inference import corrected, repeated
from imdbcls.comparison.sequential import FARTHEST, Look, Sides, Spending, levels, spent

pytestmark = pytest.mark.usefixtures("fast")

SPENDING: tuple[Spending, ...] = ("obrien_fleming", "power")
SIDES: tuple[Sides, ...] = (1, 2)


def information(num_seeds: int, first_look: int = 3) -> tuple[float, ...]:
    return tuple(n / num_seeds for n in range(first_look, num_seeds + 1))


def last_look(num_seeds: int, spending: Spending = "obrien_fleming") -> Look:
    return Look(information(num_seeds), num_seeds - 3, spending)


@pytest.mark.parametrize(
    ("num_seeds", "sides", "expected"),
    [
        (10, 2, (0.0000855, 0.000760, 0.00280, 0.00663, 0.0123, 0.0195, 0.0280, 0.0374)),
        (10, 1, (0.000346, 0.00183, 0.00496, 0.00960, 0.0154, 0.0220, 0.0290, 0.0363)),
        (5, 2, (0.00762, 0.0221, 0.0423)),
        (5, 1, (0.0114, 0.0251, 0.0410)),
    ],
)
def test_levels_agree_with_an_independent_computation(
    num_seeds: int, sides: Sides, expected: tuple[float, ...]
) -> None:
    assert levels(0.05, information(num_seeds), "obrien_fleming", sides) == pytest.approx(expected, rel=0.01)


def test_five_equal_looks_have_published_boundaries() -> None:
    """Compare with Lan and DeMets for O'Brien and Fleming's spending (Jennison and Turnbull 1999, table 7.3)."""
    found = levels(0.05, (0.2, 0.4, 0.6, 0.8, 1.0), "obrien_fleming")
    assert stats.norm.isf(np.array(found) / 2) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.001)


def test_two_looks_agree_with_the_bivariate_normal_distribution() -> None:
    first, last = levels(0.05, (0.3, 1.0), "power")
    bounds = stats.norm.isf(np.array([first, last]) / 2)
    correlation = 0.3**0.5
    inside = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf(bounds, lower_limit=-bounds)
    assert first == pytest.approx(0.05 * 0.3**2)
    assert 1 - inside == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("sides", SIDES)
def test_random_walks_cross_the_levels_as_often_as_planned(spending: Spending, sides: Sides) -> None:
    shares = information(10)
    steps = np.random.default_rng(1).standard_normal((40_000, 10))
    walks = (steps.cumsum(axis=1) / np.arange(1, 11) ** 0.5)[:, 2:]
    z = stats.norm.isf(np.array(levels(0.05, shares, spending, sides)) / sides)
    crossed = (np.abs(walks) if sides == 2 else walks) > z
    for look, share in enumerate(shares):
        expected = spent(0.05, share, spending, sides)
        assert crossed[:, : look + 1].any(axis=1).mean() == pytest.approx(expected, abs=4 * (expected / 40_000) ** 0.5)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("num_seeds", [50, 200])
def test_levels_of_many_looks_are_accurate(num_seeds: int, sides: Sides) -> None:
    steps = np.random.default_rng(2).standard_normal((10_000, num_seeds), dtype=np.float32)
    walks = (steps.cumsum(axis=1) / np.arange(1, num_seeds + 1, dtype=np.float32) ** 0.5)[:, 2:]
    z = stats.norm.isf(np.array(levels(0.05, information(num_seeds), "obrien_fleming", sides)) / sides)
    crossed = ((np.abs(walks) if sides == 2 else walks) > z).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.008)


def test_last_look_after_earlier_looks_is_stricter_than_a_single_look() -> None:
    assert last_look(10).level(0.05) == pytest.approx(0.0374, rel=0.01)
    assert Look((1.0,), 0, "obrien_fleming").level(0.05) == pytest.approx(0.05)
    assert last_look(10).repeated_p(0.04) > 0.05 > Look((1.0,), 0, "obrien_fleming").repeated_p(0.04)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("error", [0.05 / 190, 0.05 / 21, 0.05 / 3, 0.05, 0.3])
def test_repeated_p_inverts_the_level(spending: Spending, sides: Sides, error: float) -> None:
    for num_seeds in (3, 5, 10):
        shares = information(num_seeds)
        for index in range(len(shares)):
            look = Look(shares, index, spending)
            level = look.level(error, sides)
            if level > 1e-14:  # smaller levels are not computed exactly
                assert look.repeated_p(level, sides) == pytest.approx(error, rel=0.002)


@settings(max_examples=50, deadline=None)
@given(
    p=st.floats(0, 1),
    other=st.floats(0, 1),
    index=st.integers(0, 7),
    spending=st.sampled_from(SPENDING),
    sides=st.sampled_from(SIDES),
)
def test_repeated_p_rises_with_p_and_is_never_below_it(
    p: float, other: float, index: int, spending: Spending, sides: Sides
) -> None:
    look = Look(information(10), index, spending)
    low, high = sorted([p, other])
    assert low <= look.repeated_p(low, sides) <= look.repeated_p(high, sides) * (1 + 1e-9) <= 1 + 1e-9
    assert (look.repeated_p(p, sides) < 0.05) == (p < look.level(0.05, sides)) or p == pytest.approx(
        look.level(0.05, sides), rel=0.002
    )


def test_p_of_zero_is_not_significant_before_any_error_is_spent() -> None:
    """At 2 of 50 seeds, O'Brien and Fleming's spending function has spent less than 1e-27 of the error."""
    look = Look(information(50, first_look=2), 0, "obrien_fleming")
    assert look.level(0.05) == pytest.approx(2 * stats.norm.sf(FARTHEST))
    assert look.repeated_p(0.0) > 0.05
    assert Look(information(10), 0, "power").repeated_p(0.0) < 1e-9


def test_repeated_p_of_nan_is_nan() -> None:
    assert np.isnan(last_look(10).repeated_p(float("nan")))


def test_holm_over_looks_agrees_with_its_definition() -> None:
    """The smallest p is compared with the level for 5 % / 3, the next with 5 % / 2, and the last with 5 %."""
    look = last_look(5, "power")
    first, second, third = (look.level(0.05 / m) for m in (3, 2, 1))
    assert first < second < third

    def rejected(*p_values: float) -> list[bool]:
        return [p is not None and p < 0.05 for p in corrected(repeated(p_values, look, sides=2), 3)]

    assert rejected(0.98 * first, 0.98 * second, 0.98 * third) == [True, True, True]
    assert rejected(0.98 * third, 0.98 * first, 1.02 * second) == [False, True, False]
    assert rejected(1.02 * first, 1.02 * first, 1.02 * first) == [False, False, False]
    assert rejected(0.98 * first, 1.02 * second, 0.5) == [True, False, False]
