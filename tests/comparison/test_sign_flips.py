"""The exact permutation test against every flip counted out, against McNemar's test, and far out in the tail."""

import time
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from imdbcls.comparison.sign_flips import p_of_sign_flips
from imdbcls.comparison.statistics import holm, permutation_p


def counted(terms: np.ndarray) -> float:
    """The same from the complete distribution, term by term."""
    weights = Counter({0: 1})
    for term in np.abs(terms[terms != 0]).tolist():
        following: Counter[int] = Counter()
        for total, weight in weights.items():
            following[total + term] += weight
            following[total - term] += weight
        weights = following
    reached = sum(weight for total, weight in weights.items() if abs(total) >= abs(int(terms.sum())))
    return reached / sum(weights.values())


def test_it_equals_every_flip_counted_out() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        terms = generator.integers(-9, 10, generator.integers(1, 60)) * generator.choice([1, 2, 3])
        if generator.random() < 0.5:  # far from balanced
            terms = np.abs(terms) * np.where(generator.random(len(terms)) < 0.15, -1, 1)
        assert p_of_sign_flips(terms) == pytest.approx(counted(terms), rel=1e-11), terms.tolist()


@pytest.mark.parametrize(
    ("first", "second"), [(10, 60), (100, 400), (1_000, 1_500), (0, 40), (5, 5), (1, 0), (3, 900), (24_000, 24_500)]
)
def test_with_terms_of_one_size_it_is_mcnemars_exact_test(first: int, second: int) -> None:
    terms = np.concatenate([np.ones(first, int), -np.ones(second, int)])
    expected = stats.binomtest(first, first + second).pvalue
    assert p_of_sign_flips(terms) == pytest.approx(expected, rel=1e-9)
    assert p_of_sign_flips(-7 * terms) == pytest.approx(expected, rel=1e-9)


def test_clusters_of_very_different_sizes() -> None:
    """One huge term decides with the others; few sizes share no divisor."""
    for terms in ([1000, 1, 1, 1], [999, -1, 500, 3], [7, 7, 7, -6, 1000], [2, 2, 2, 2, 3], [0, 0, 5], [6, -6]):
        assert p_of_sign_flips(np.array(terms)) == pytest.approx(counted(np.array(terms)), rel=1e-11), terms


def test_nothing_and_everything() -> None:
    assert p_of_sign_flips(np.zeros(10, int)) == 1.0
    assert 0 < p_of_sign_flips(np.ones(100_000, int)) < 1e-300  # never zero


def test_a_large_test_set_in_clusters_takes_little_time() -> None:
    generator = np.random.default_rng(1)
    terms = np.rint(generator.normal(3, 60, 8_000)).astype(int)  # films of many reviews, ten seeds
    started = time.process_time()
    p = p_of_sign_flips(terms)
    assert time.process_time() - started < 5
    assert p == pytest.approx(2 * stats.norm.sf(abs(terms.sum()) / np.sqrt((terms**2).sum())), rel=0.1)


def test_a_large_difference_survives_correction_for_more_than_a_hundred_groups() -> None:
    """5,671 pairs: a p-value that cannot fall below 1/100,001 is above 5 % after correction."""
    first, second = np.ones((3, 60), np.float32), np.zeros((3, 60), np.float32)
    second[:, :20] = 1
    p = permutation_p(first, second)
    assert p == pytest.approx(2.0**-39) and holm([p] + [0.5] * (107 * 106 // 2 - 1))[0] < 1e-6
