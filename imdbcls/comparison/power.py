"""Compute the power of a comparison, and the number of seeds needed for a verdict (Card et al. 2020, EMNLP, p. 9263).

The minimum detectable difference is that of Bloom (1995, Evaluation Review 19:547), but computed with the noncentral t
distribution. Bloom's formula, (t_critical + t_power) standard errors, is too small with few degrees of freedom.
"""

from bisect import bisect_left
from dataclasses import replace

from scipy import stats
from scipy.optimize import brentq

from imdbcls.comparison.statistics import Estimate, t_quantile

POWER = 0.8
MAX_SEEDS = 50
NORMAL_ABOVE = 1_000  # degrees of freedom above which the normal distribution replaces the t distribution


def minimum_detectable_difference(estimate: Estimate, level: float) -> float:
    """Return the smallest true difference that a two-sided test at `level` detects with 80 % power."""
    df = estimate.degrees_of_freedom
    critical = t_quantile(1 - level / 2, df)
    if df > NORMAL_ABOVE:
        return (critical + float(stats.norm.ppf(POWER))) * estimate.standard_error

    def excess(shift: float) -> float:
        return probability_above(critical, df, shift) - POWER

    return float(brentq(excess, 0, 3 * critical + 10)) * estimate.standard_error


def largest_provable_equivalence(estimate: Estimate, margin: float) -> float:
    """Return the largest true difference for which TOST has 80 % power, or a negative number if there is none."""
    df = estimate.degrees_of_freedom
    both_sides = t_quantile(0.95, df) + t_quantile((1 + POWER) / 2, df)
    return float(margin - both_sides * estimate.standard_error)


def with_seeds(estimate: Estimate, num_seeds: int) -> Estimate:
    """Return the estimate to expect if every group is trained with `num_seeds` seeds."""
    variances = tuple(v * n / num_seeds for v, n in zip(estimate.seed_variances, estimate.num_seeds, strict=True))
    return replace(estimate, seed_variances=variances, num_seeds=(num_seeds,) * len(variances))


def seeds_needed(estimate: Estimate, level: float, margin: float) -> int | None:
    """Return the number of seeds per group for a verdict of "better" or "equivalent" with 80 % power.

    The number is only a guide, because it assumes that the observed difference is the true one. Return None if a group
    has one seed, because its variance over seeds is unknown. Also return None if `MAX_SEEDS` seeds are not enough: a
    verdict would then need more test documents.
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
    """Return the power of a two-sided test at `level`, assuming that the estimated difference is the true one."""
    if estimate.standard_error == 0:
        return float(estimate.value != 0)
    df, shift = estimate.degrees_of_freedom, abs(estimate.value) / estimate.standard_error
    critical = t_quantile(1 - level / 2, df)
    return probability_above(critical, df, shift)


def probability_above(critical: float, df: float, shift: float) -> float:
    """Return the probability that t exceeds `critical` if the true difference is `shift` standard errors."""
    return float(stats.norm.sf(critical - shift) if df > NORMAL_ABOVE else stats.nct.sf(critical, df, shift))
