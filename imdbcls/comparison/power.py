"""Compute the power of a comparison and the number of seeds that would decide it (Card et al. 2020, EMNLP, p. 9263).

The minimum detectable difference follows Bloom (1995, Evaluation Review 19:547), but uses the noncentral t
distribution: with few degrees of freedom, Bloom's t_critical + t_power standard errors are too small.
"""

from bisect import bisect_left
from dataclasses import replace

from scipy import stats
from scipy.optimize import brentq

from imdbcls.comparison.statistics import Estimate, t_quantile

POWER = 0.8
MAX_SEEDS = 50
NORMAL_ABOVE = 1_000  # degrees of freedom; above it, the normal distribution is used


def minimum_detectable_difference(estimate: Estimate, level: float) -> float:
    """Return the smallest true difference that a two-sided test at `level` detects with probability 0.8."""
    df = estimate.degrees_of_freedom
    critical = t_quantile(1 - level / 2, df)
    if df > NORMAL_ABOVE:
        return (critical + float(stats.norm.ppf(POWER))) * estimate.standard_error

    def excess(shift: float) -> float:
        return probability_above(critical, df, shift) - POWER

    return float(brentq(excess, 0, 3 * critical + 10)) * estimate.standard_error


def largest_provable_equivalence(estimate: Estimate, margin: float) -> float:
    """Return the largest true difference for which TOST shows equivalence with probability 0.8; may be negative."""
    df = estimate.degrees_of_freedom
    both_sides = t_quantile(0.95, df) + t_quantile((1 + POWER) / 2, df)
    return float(margin - both_sides * estimate.standard_error)


def with_seeds(estimate: Estimate, num_seeds: int) -> Estimate:
    """Return the estimate that is expected if every group is trained with `num_seeds` seeds."""
    variances = tuple(v * n / num_seeds for v, n in zip(estimate.seed_variances, estimate.num_seeds, strict=True))
    return replace(estimate, seed_variances=variances, num_seeds=(num_seeds,) * len(variances))


def seeds_needed(estimate: Estimate, level: float, margin: float) -> int | None:
    """Return the number of seeds per group for a verdict of "better" or "equivalent" with 80 % power.

    Assumes that the observed difference is the true one, so the number is only a guide. Return None if a group has one
    seed, because the variance over seeds is then unknown, or if `MAX_SEEDS` are not enough: the test split is then too
    small.
    """
    if min(estimate.num_seeds) < 2:
        return None

    def decides(num_seeds: int) -> bool:
        larger = with_seeds(estimate, num_seeds)
        significant = power_of(larger, level) >= POWER
        return significant or abs(estimate.value) <= largest_provable_equivalence(larger, margin)

    more = range(max(estimate.num_seeds) + 1, MAX_SEEDS + 1)
    if not more or not decides(MAX_SEEDS):
        return None
    return more[bisect_left(more, True, key=decides)]


def power_of(estimate: Estimate, level: float) -> float:
    """Return the power of a two-sided test at `level` if the true difference is the estimated one."""
    if estimate.standard_error == 0:
        return float(estimate.value != 0)
    df, shift = estimate.degrees_of_freedom, abs(estimate.value) / estimate.standard_error
    critical = t_quantile(1 - level / 2, df)
    return probability_above(critical, df, shift)


def probability_above(critical: float, df: float, shift: float) -> float:
    """Return the probability that t exceeds `critical` if the true difference is `shift` standard errors."""
    return float(stats.norm.sf(critical - shift) if df > NORMAL_ABOVE else stats.nct.sf(critical, df, shift))
