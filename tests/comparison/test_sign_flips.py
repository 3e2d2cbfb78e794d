"""Check the exact permutation test against full enumeration and McNemar's test, also in the far tail."""

import time
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from imdbcls.comparison.sign_flips import p_of_sign_flips
from imdbcls.comparison.statistics import Units, holm, permutation_p


def enumerated_p(terms: np.ndarray) -> float:
    """Return the p-value of the permutation test from the sums of all sign patterns, built up term by term."""
    weights = Counter({0: 1})
    for term in np.abs(terms[terms != 0]).tolist():
        following: Counter[int] = Counter()
        for total, weight in weights.items():
            following[total + term] += weight
            following[total - term] += weight
        weights = following
    reached = sum(weight for total, weight in weights.items() if abs(total) >= abs(int(terms.sum())))
    return reached / sum(weights.values())


def test_p_equals_full_enumeration() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        terms = generator.integers(-9, 10, generator.integers(1, 60)) * generator.choice([1, 2, 3])
        if generator.random() < 0.5:  # makes most terms positive
            terms = np.abs(terms) * np.where(generator.random(len(terms)) < 0.15, -1, 1)
        assert p_of_sign_flips(terms) == pytest.approx(enumerated_p(terms), rel=1e-11), terms.tolist()


@pytest.mark.parametrize(
    ("first", "second"), [(10, 60), (100, 400), (1_000, 1_500), (0, 40), (5, 5), (1, 0), (3, 900), (24_000, 24_500)]
)
def test_p_for_terms_of_one_size_equals_mcnemars_test(first: int, second: int) -> None:
    terms = np.concatenate([np.ones(first, int), -np.ones(second, int)])
    expected = stats.binomtest(first, first + second).pvalue
    assert p_of_sign_flips(terms) == pytest.approx(expected, rel=1e-9)
    assert p_of_sign_flips(-7 * terms) == pytest.approx(expected, rel=1e-9)


def test_p_for_very_different_sizes_equals_full_enumeration() -> None:
    """Test one huge term among small terms, and sizes without a common divisor."""
    for terms in ([1000, 1, 1, 1], [999, -1, 500, 3], [7, 7, 7, -6, 1000], [2, 2, 2, 2, 3], [0, 0, 5], [6, -6]):
        assert p_of_sign_flips(np.array(terms)) == pytest.approx(enumerated_p(np.array(terms)), rel=1e-11), terms


def test_p_without_and_with_only_differences() -> None:
    assert p_of_sign_flips(np.zeros(10, int)) == 1.0
    assert 0 < p_of_sign_flips(np.ones(100_000, int)) < 1e-300  # never zero


def test_large_clustered_test_set_takes_below_five_seconds() -> None:
    generator = np.random.default_rng(1)
    terms = np.rint(generator.normal(3, 60, 8_000)).astype(int)  # sums over films with many reviews and ten seeds
    started = time.process_time()
    p = p_of_sign_flips(terms)
    assert time.process_time() - started < 5
    assert p == pytest.approx(2 * stats.norm.sf(abs(terms.sum()) / np.sqrt((terms**2).sum())), rel=0.1)


def test_large_difference_stays_significant_among_5671_pairs() -> None:
    """A sampled p-value cannot fall below 1/100,001, which is above 5 % after correction for 5,671 pairs."""
    first, second = np.ones((3, 60), np.float32), np.zeros((3, 60), np.float32)
    second[:, :20] = 1
    p = permutation_p(first, second, Units(first.shape[1]))
    assert p == pytest.approx(2.0**-39) and holm([p] + [0.5] * (107 * 106 // 2 - 1))[0] < 1e-6
