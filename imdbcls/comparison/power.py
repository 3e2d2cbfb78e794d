"""What a comparison of this size could have shown, and what size would settle it (Card et al. 2020, EMNLP, p. 9263).

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
    """The true difference that a test at `level` (two-sided) would find with probability 0.8."""
    freedom = estimate.degrees_of_freedom
    critical = t_quantile(1 - level / 2, freedom)
    if freedom > MANY:
        return (critical + float(stats.norm.ppf(POWER))) * estimate.standard_error

    def excess(shift: float) -> float:
        return chance_beyond(critical, freedom, shift) - POWER

    return float(brentq(excess, 0, 3 * critical + 10)) * estimate.standard_error


def largest_provable_equivalence(estimate: Estimate, margin: float) -> float:
    """The largest true difference that TOST would still call equivalent with probability 0.8; may be negative."""
    freedom = estimate.degrees_of_freedom
    both_sides = t_quantile(0.95, freedom) + t_quantile((1 + POWER) / 2, freedom)
    return float(margin - both_sides * estimate.standard_error)


def with_seeds(estimate: Estimate, num_seeds: int) -> Estimate:
    """The same comparison, had every group been trained with `num_seeds` seeds."""
    variances = tuple(v * n / num_seeds for v, n in zip(estimate.seed_variances, estimate.num_seeds, strict=True))
    return replace(estimate, seed_variances=variances, num_seeds=(num_seeds,) * len(variances))


def seeds_needed(estimate: Estimate, level: float, margin: float) -> int | None:
    """Seeds per group with which the comparison would likely (80 %) end in a verdict, either "better" or "equivalent".

    Supposes that the observed difference is the true one, so it is a guide, not a promise. None when one of the groups
    has a single seed (the spread is unknown) or when `MAX_SEEDS` would not do: the test set is then too small.
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
    """How likely a test at `level` (two-sided) finds the difference, if it is as estimated."""
    if estimate.standard_error == 0:
        return float(estimate.value != 0)
    freedom, shift = estimate.degrees_of_freedom, abs(estimate.value) / estimate.standard_error
    critical = t_quantile(1 - level / 2, freedom)
    return chance_beyond(critical, freedom, shift)


def chance_beyond(critical: float, freedom: float, shift: float) -> float:
    """How likely t exceeds `critical` where the true difference is `shift` standard errors."""
    return float(stats.norm.sf(critical - shift) if freedom > MANY else stats.nct.sf(critical, freedom, shift))
