"""Test all pairs of groups, given their samples, and find the groups that may be the best.

`compare` calls these functions, and so does `experiments/null_simulation`, which measures their error rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from scipy.optimize import brentq

from imdbcls.comparison.estimate import Estimate, agreeing_with_test, t_quantile
from imdbcls.comparison.sequential import Look, Sides
from imdbcls.comparison.statistics import Sample, difference_over_seeds, holm, seed_variances
from imdbcls.comparison.verdicts import LEVEL, Outcome, outcome_of

TOO_FEW_SEEDS = 2  # a group with two seeds needs a third seed if the other group of the pair has more than two
SMALLEST_DF = 0.5  # with fewer degrees of freedom, use infinity as Dunnett's critical value


@dataclass(frozen=True)
class Pair:
    """Two groups, as indices into the samples, and how to test them."""

    a: int
    b: int
    samples: tuple[Sample, Sample] | None = None  # restricted to the shared documents; None: not restricted
    is_tested: bool = True
    p_documents: float | None = None  # used instead of the p-value of the estimate if a group has one seed


@dataclass(frozen=True)
class Inference:
    """The difference between two groups, and its tests. The `_holm` p-values are corrected for all tested pairs."""

    estimate: Estimate
    seeds_varied: bool  # whether both groups have several seeds, so that the test can cover the variation over seeds
    missing_seeds: tuple[int, int]  # number of seeds to add to each group before a difference can be significant
    p_value: float | None  # None: not tested
    p_holm: float | None
    p_equivalence: float | None  # None: not tested, or no margin
    p_equivalence_holm: float | None
    simultaneous: tuple[float, float]  # 95 % confidence interval, simultaneous for all tested pairs
    outcome: Outcome


def reversed_inference(inference: Inference) -> Inference:
    """Return the inference on b - a, given the inference on a - b."""
    low, high = inference.simultaneous
    estimate = replace(inference.estimate, value=-inference.estimate.value)
    return replace(
        inference, estimate=estimate, missing_seeds=inference.missing_seeds[::-1], simultaneous=(-high, -low)
    )


def infer(
    samples: Sequence[Sample],
    pairs: Sequence[Pair],
    margin: float | None,
    min_tests: int = 1,
    min_equivalence_tests: int | None = None,
    look: Look | None = None,
    min_intervals: int | None = None,
) -> list[Inference]:
    """Estimate the difference of every pair, and test the pairs whose `is_tested` is true.

    Without a margin, no pair is tested for equivalence.

    P-values are corrected for the number of tested pairs, or for `min_tests` tests if that is larger.
    `min_equivalence_tests` and `min_intervals` are the minimum numbers for equivalence tests and for simultaneous
    intervals; None: the same number as for the p-values.

    In a planned study, `look` is the current look, that is, the current planned test of the growing study. The
    corrected p-values and the simultaneous intervals then hold for all looks together.
    """
    estimates = estimates_of(samples, pairs)
    p_values = [estimate.p_value() if pair.is_tested else None for pair, estimate in zip(pairs, estimates, strict=True)]
    p_equivalence = [
        estimate.p_equivalence(margin) if pair.is_tested and margin is not None else None
        for pair, estimate in zip(pairs, estimates, strict=True)
    ]
    num_tests = max(min_tests, sum(pair.is_tested for pair in pairs))
    p_holm = corrected(repeated(p_values, look, sides=2), num_tests)
    num_equivalence_tests = num_tests if min_equivalence_tests is None else max(min_equivalence_tests, len(pairs))
    p_equivalence_holm = corrected(repeated(p_equivalence, look, sides=1), num_equivalence_tests)
    num_intervals = num_tests if min_intervals is None else max(num_tests, min_intervals)
    inferences = []
    for i, (pair, estimate) in enumerate(zip(pairs, estimates, strict=True)):
        sizes = len(samples[pair.a]), len(samples[pair.b])
        missing = missing_seeds(*sizes)
        inferences.append(
            Inference(
                estimate=estimate,
                seeds_varied=min(sizes) > 1,
                missing_seeds=missing,
                p_value=p_values[i],
                p_holm=p_holm[i],
                p_equivalence=p_equivalence[i],
                p_equivalence_holm=p_equivalence_holm[i],
                simultaneous=simultaneous_interval(estimate, num_intervals, p_holm[i], look),
                outcome=outcome_of(
                    pair.is_tested,
                    significant=is_below(p_holm[i]) and not any(missing),
                    equivalent=is_below(p_equivalence_holm[i]),
                    seeds_varied=min(sizes) > 1,
                ),
            )
        )
    return inferences


def estimates_of(samples: Sequence[Sample], pairs: Sequence[Pair]) -> list[Estimate]:
    """Estimate the difference of every pair. For a pair with a one-seed group, `exact_p` is `p_documents`."""
    variances = seed_variances(samples)
    covariances = covariances_of(samples)
    estimates = []
    for pair in pairs:
        if pair.samples is None:
            a, b = samples[pair.a], samples[pair.b]
            between = covariances.get((pair.a, pair.b))
            estimates.append(difference_over_seeds(a, b, (variances[pair.a], variances[pair.b]), between))
        else:
            others = [sample for i, sample in enumerate(samples) if i not in (pair.a, pair.b)]
            own = seed_variances([*pair.samples, *others])[:2]
            estimates.append(difference_over_seeds(*pair.samples, own))
    return [
        replace(estimate, exact_p=pair.p_documents) if len(estimate.seed_variances) < 2 else estimate
        for pair, estimate in zip(pairs, estimates, strict=True)
    ]


def covariances_of(samples: Sequence[Sample]) -> Mapping[tuple[int, int], NDArray[np.float64]]:
    """Return the covariance matrix (seeds of i, seeds of j) for each pair (i, j) of samples.

    Only samples with the units of the first sample are included. One matrix product computes all covariances.
    """
    if not samples:
        return {}
    together = [i for i, sample in enumerate(samples) if sample.units is samples[0].units]
    joined = Sample(
        np.concatenate([samples[i].values_S for i in together]),
        np.concatenate([samples[i].sums_GS for i in together], axis=1),
        samples[0].units,
    )
    ends = np.cumsum([len(samples[i]) for i in together])
    blocks = {i: slice(end - len(samples[i]), end) for i, end in zip(together, ends, strict=True)}
    matrix = joined.own_covariance
    return {(i, j): matrix[blocks[i], blocks[j]] for i in together for j in together}


def repeated(p_values: Sequence[float | None], look: Look | None, sides: Sides) -> list[float | None]:
    """Return the p-values after correction for all planned looks. If `look` is None, return them unchanged."""
    if look is None:
        return list(p_values)
    return [None if p is None else look.repeated_p(p, sides) for p in p_values]


def corrected(p_values: Sequence[float | None], num_tests: int) -> list[float | None]:
    """Return the p-values after Holm's correction for `num_tests` tests. None stays None.

    If fewer than `num_tests` p-values are known, the correction assumes p = 1 for the remaining tests.
    """
    known = [p for p in p_values if p is not None]
    adjusted = iter(holm([*known, *[1.0] * (num_tests - len(known))]))
    return [None if p is None else next(adjusted) for p in p_values]


def is_below(p: float | None) -> bool:
    return p is not None and p < LEVEL


def missing_seeds(num_a: int, num_b: int) -> tuple[int, int]:
    """Return how many more seeds each group needs before their difference can be significant.

    A group with two seeds needs a third one if the other group has more than two. If the group with two seeds varies
    more over seeds than the other group, the test at the 5 % level would reject 7 to 12 % of null comparisons.
    """
    most = max(num_a, num_b)
    if min(num_a, num_b) != TOO_FEW_SEEDS or most == TOO_FEW_SEEDS:
        return 0, 0
    enough = TOO_FEW_SEEDS + 1
    return max(0, enough - num_a), max(0, enough - num_b)


def simultaneous_interval(
    estimate: Estimate, num_tests: int, p_holm: float | None, look: Look | None = None
) -> tuple[float, float]:
    """Return the Bonferroni interval of a difference, which excludes zero exactly if `p_holm` is significant.

    With `look`, the interval holds for all planned looks together (a repeated confidence interval, Jennison and
    Turnbull 1989, Journal of the Royal Statistical Society B 51:305).

    Holm's method is more powerful than Bonferroni's, so the Bonferroni interval of a significant difference can contain
    zero. It is then cut at zero. The interval of an untested pair (`p_holm` is None) stays the same.
    """
    level = LEVEL / max(1, num_tests)
    interval = estimate.interval(1 - (level if look is None else look.level(level)))
    return interval if p_holm is None else agreeing_with_test(interval, estimate.value, is_below(p_holm))


def short_list(
    num_groups: int, inferences: Mapping[tuple[int, int], Inference], higher_is_better: bool
) -> list[int] | None:
    """Return the indices of the groups that may be the best, with a joint confidence of 95 % (Hsu 1996, chapter 4).

    A group is ruled out if another group is better by more than c standard errors, where c is Dunnett's one-sided
    critical value for comparing one of k groups with the k - 1 others. A pair with `missing_seeds` rules out no group.
    `inferences` has every pair (i, j) with i < j. Return None if a pair is not tested or a group has one seed.
    """
    if any(pair.p_value is None or not pair.seeds_varied for pair in inferences.values()):
        return None
    sign = 1.0 if higher_is_better else -1.0
    ruled_out = set()
    for (i, j), pair in inferences.items():
        if any(pair.missing_seeds):
            continue
        estimate, lead = pair.estimate, sign * pair.estimate.value
        if abs(lead) > dunnett(num_groups - 1, estimate.degrees_of_freedom) * estimate.standard_error:
            ruled_out.add(j if lead > 0 else i)
    return [i for i in range(num_groups) if i not in ruled_out]


@lru_cache(maxsize=4096)
def dunnett_rounded(num_comparisons: int, df: float) -> float:
    """Return the one-sided 95 % critical value of Dunnett (1955) for several comparisons with a common control.

    Results are cached. The caller rounds `df`, so the cache stays small.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    if np.isfinite(df):
        points = (np.arange(200) + 0.5) / 200
        scales = np.sqrt(special.chdtri(df, 1 - points) / df)  # quantiles of chi / sqrt(df)
    else:
        scales = np.ones(1)

    def coverage(critical: float) -> float:
        # All comparisons have correlation 1/2 with each other, and they are independent given the control.
        inside = special.ndtr((critical * scales[:, None] * np.sqrt(2)) + z[None, :]) ** num_comparisons
        return float((inside @ weights).mean())

    # The critical value is above the value for a single comparison and below the value with Bonferroni's correction.
    lowest, highest = (t_quantile(1 - LEVEL / m, df) for m in (1, num_comparisons))
    return float(brentq(lambda critical: coverage(critical) - (1 - LEVEL), 0.9 * lowest, 1.1 * highest, xtol=1e-6))


def dunnett(num_comparisons: int, df: float) -> float:
    """Return Dunnett's one-sided 95 % critical value.

    If `df` is below 0.5, return infinity: even for a single comparison, the critical value is then above 40. With
    several comparisons, `df` is rounded down to three significant digits, and a value above 2,000 counts as infinity.
    Fewer different values are then computed.
    """
    if df < SMALLEST_DF:
        return float("inf")
    if num_comparisons == 1:
        return float(stats.t.isf(LEVEL, df))
    if df > 2_000:
        return dunnett_rounded(num_comparisons, float("inf"))
    step = 10.0 ** (np.floor(np.log10(df)) - 2)
    return dunnett_rounded(num_comparisons, float(np.floor(df / step) * step))
