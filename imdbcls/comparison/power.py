"""Compute the power of a comparison, and the number of seeds that would settle it (Card et al. 2020, EMNLP, p. 9263).

The smallest detectable difference is Bloom's (1995, Evaluation Review 19:547), but by the distribution that t has under
it, the noncentral one: with few degrees of freedom, t_critical + t_power standard errors would be too few.
"""

from bisect import bisect_left
from dataclasses import replace

from scipy import stats
from scipy.optimize import brentq

from imdbcls.comparison.statistics import Estimate, t_quantile

POWER = 0.8
MAX_SEEDS = 50
MANY = 1_000  # degrees of freedom: the normal distribution from there on


def minimum_detectable_difference(estimate: Estimate, level: float) -> float:
    """Return the true difference that a test at `level` (two-sided) would find with probability 0.8."""
    freedom = estimate.degrees_of_freedom
    critical = t_quantile(1 - level / 2, freedom)
    if freedom > MANY:
        return (critical + float(stats.norm.ppf(POWER))) * estimate.standard_error

    def excess(shift: float) -> float:
        return chance_beyond(critical, freedom, shift) - POWER

    return float(brentq(excess, 0, 3 * critical + 10)) * estimate.standard_error


def largest_provable_equivalence(estimate: Estimate, margin: float) -> float:
    """Return the largest true difference that TOST would call equivalent with probability 0.8; may be negative."""
    freedom = estimate.degrees_of_freedom
    both_sides = t_quantile(0.95, freedom) + t_quantile((1 + POWER) / 2, freedom)
    return float(margin - both_sides * estimate.standard_error)


def with_seeds(estimate: Estimate, num_seeds: int) -> Estimate:
    """Return the same comparison as if every group had been trained with `num_seeds` seeds."""
    variances = tuple(v * n / num_seeds for v, n in zip(estimate.seed_variances, estimate.num_seeds, strict=True))
    return replace(estimate, seed_variances=variances, num_seeds=(num_seeds,) * len(variances))


def seeds_needed(estimate: Estimate, level: float, margin: float) -> int | None:
    """Return the seeds per group with which the comparison would likely (80 %) end in "better" or "equivalent".

    Assumes that the observed difference is the true one, so it is only a guide. None if one of the groups has a single
    seed (the spread is unknown) or if `MAX_SEEDS` are not enough: the test set is then too small.
    """
    if min(estimate.num_seeds) < 2:
        return None

    def settles(num_seeds: int) -> bool:
        larger = with_seeds(estimate, num_seeds)
        shown = power_of(larger, level) >= POWER
        return shown or abs(estimate.value) <= largest_provable_equivalence(larger, margin)

    more = range(max(estimate.num_seeds) + 1, MAX_SEEDS + 1)
    if not more or not settles(MAX_SEEDS):
        return None
    return more[bisect_left(more, True, key=settles)]


def power_of(estimate: Estimate, level: float) -> float:
    """Return the probability that a test at `level` (two-sided) finds the difference, if it is as estimated."""
    if estimate.standard_error == 0:
        return float(estimate.value != 0)
    freedom, shift = estimate.degrees_of_freedom, abs(estimate.value) / estimate.standard_error
    critical = t_quantile(1 - level / 2, freedom)
    return chance_beyond(critical, freedom, shift)


def chance_beyond(critical: float, freedom: float, shift: float) -> float:
    """Return the probability that t exceeds `critical` if the true difference is `shift` standard errors."""
    return float(stats.norm.sf(critical - shift) if freedom > MANY else stats.nct.sf(critical, freedom, shift))
