"""An estimate with its variance components, from which its interval, p-values and degrees of freedom are computed.

`statistics` builds the estimates and describes the methods.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

LIMIT = 0.75  # confidence level of the upper limits that weight the degrees of freedom
NUM_ITERATIONS = 8  # the error of `Estimate.equivalence_limit` is then below 0.01 % of its distance to the margin


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a metric between the seeds of a group, in the squared unit of the metric."""

    value: float
    degrees_of_freedom: float
    num_seeds: int

    @property
    def of_mean(self) -> float:
        """The variance of the mean over seeds."""
        return self.value / self.num_seeds

    def with_seeds(self, num_seeds: int) -> "SeedVariance":
        """Return the variance that is expected with another number of seeds."""
        added = num_seeds - self.num_seeds
        return replace(self, degrees_of_freedom=max(1.0, self.degrees_of_freedom + added), num_seeds=num_seeds)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference between two such means, with its variance components."""

    value: float
    seed_variances: tuple[SeedVariance, ...]  # of the groups with several seeds
    document_variance: float
    document_df: float  # degrees of freedom of the document variance
    step: float = 0.0  # smallest change of the value, see `Sample.step`; 0: none
    effective_size: float = float("inf")  # number of independent documents, see `Sample.effective_size`
    exact_p: float | None = None  # p-value of an exact test for a true value of zero; replaces the t-test

    @property
    def variance(self) -> float:
        return sum(variance.of_mean for variance in self.seed_variances) + self.document_variance

    @property
    def standard_error(self) -> float:
        return self.variance**0.5

    @cached_property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's degrees of freedom, weighted by the upper confidence limits of the variances."""
        parts = [(variance.of_mean, variance.degrees_of_freedom) for variance in self.seed_variances]
        parts.append((self.document_variance, self.document_df))
        limits = [(variance * df / special.chdtri(df, LIMIT), df) for variance, df in parts if variance > 0 and df > 0]
        uncertainty = sum(limit**2 / df for limit, df in limits)
        return float(sum(limit for limit, _ in limits) ** 2 / uncertainty) if uncertainty > 0 else float("inf")

    @property
    def score_df(self) -> float:
        """The degrees of freedom of the score test: `document_df` or `degrees_of_freedom`, whichever is larger.

        With fewer degrees of freedom than the t-test has, the score test of zero would be stricter than the t-test.
        """
        return max(self.document_df, self.degrees_of_freedom)

    def variance_if(self, truth: float) -> float:
        """Return the variance that is expected if `truth` is the true value: the variance of Tango's score test."""
        return float(score_variance(self.value, truth, self.variance, self.step, self.effective_size))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of the true value.

        Each end is the first value, starting from the estimate, that the t-test and the score test both reject.
        The interval excludes zero exactly if `p_value` is below 1 - `level`. With `exact_p`, this can require that an
        end is moved to zero. An end at zero belongs to the interval only if p is not below 1 - `level`.
        """
        low, high = self.value - self.distance_to_end(level, -1), self.value + self.distance_to_end(level, 1)
        return agreeing_with_test((low, high), self.value, self.p_value() < 1 - level)

    def distance_to_end(self, level: float, sign: int) -> float:
        """Return the distance between the value and the lower (`sign` -1) or upper (`sign` 1) end of the interval.

        A score test uses squared deviations from the hypothesis. For a hypothesis between the value and zero, this
        method uses squared deviations from the value, as the t-test does. The score test of zero is then not stricter
        than the t-test.
        """
        distance = t_quantile(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        t = t_quantile(0.5 + level / 2, self.score_df)
        # The last condition means that the end is outside the range of possible differences.
        if self.step == 0 or not np.isfinite(t) or distance > 1 + abs(self.value):
            return distance
        to_zero = abs(self.value) if sign * self.value < 0 else 0.0

        def excess(e: float) -> float:
            around_value = self.variance_if(self.value + sign * e) - min(e, to_zero) ** 2 / self.effective_size
            return e - t * max(around_value, 0.0) ** 0.5

        if not excess(distance) < 0:  # true for an undefined value (NaN), too
            return distance
        rejected = max(distance, abs(self.value))
        while excess(rejected) < 0:
            rejected *= 2
        return float(brentq(excess, distance, rejected))

    def p_value(self) -> float:
        """Return the two-sided p-value of the null hypothesis that the true value is zero.

        The p-value is `exact_p` if it is known, and otherwise the p-value of the t-test. An undefined value (NaN) is
        never significant.
        """
        if self.exact_p is not None:
            return self.exact_p
        if self.standard_error == 0:
            return 0.0 if abs(self.value) > 0 else 1.0
        return 2 * t_tail(abs(self.value) / self.standard_error, self.degrees_of_freedom)

    def p_equivalence(self, margin: float) -> float:
        """Return the p-value of TOST (Schuirmann 1987): the larger p of the one-sided tests at -margin and margin.

        Each one-sided test is a t-test. For a metric with steps, a score test is added, and the larger p counts. For
        any `level`, the p-value is below `level` exactly if `interval(1 - 2 * level)` lies between -margin and margin.
        If the variance is zero, return 1, because the test documents then say nothing about documents outside the test
        split.
        """
        if self.standard_error == 0:
            return 1.0
        distance = margin - abs(self.value)
        p = t_tail(distance / self.standard_error, self.degrees_of_freedom)
        variance = self.variance_if(margin if self.value >= 0 else -margin)
        if self.step > 0 and distance > 0 and variance > 0:
            p = max(p, t_tail(distance / variance**0.5, self.score_df))
        return p

    def equivalence_limit(self, margin: float, level: float, variance: NDArray[np.float64] | float) -> NDArray:
        """Return the largest absolute difference for which `p_equivalence` is below `level`; negative: there is none.

        `variance` is used instead of the variance of the estimate. It can be the variance expected with more seeds.
        """
        distance = t_quantile(1 - level, self.degrees_of_freedom) * np.sqrt(variance)
        t = t_quantile(1 - level, self.score_df)
        if self.step > 0 and np.isfinite(t):
            by_score = distance
            for _ in range(NUM_ITERATIONS):
                by_score = np.minimum(by_score, 2 * margin)  # any distance above the margin means no limit
                expected = score_variance(margin - by_score, margin, variance, self.step, self.effective_size)
                by_score = t * np.sqrt(expected)
            distance = np.maximum(distance, by_score)
        return np.asarray(margin - distance)


def score_variance(
    value: NDArray[np.float64] | float,
    truth: float,
    variance: NDArray[np.float64] | float,
    step: float,
    effective_size: float,
) -> NDArray[np.float64]:
    """Return the variance of a difference if `truth` is the true difference, after Tango (1998, equations 5 and 6).

    Of n documents, b differ in one direction and c in the other. The observed difference is d = (b - c) / n. If D is
    the true difference, the most likely share m of documents that differ is the larger root of

        m² - (r + d D) m + D (d - D + r D) = 0,    r = (b + c) / n

    and the variance of the difference is (m - D²) / n.

    With several seeds, `variance` also covers the seeds, and b + c cannot be counted. The equation is therefore solved
    for m / n, with (1 - 1 / n) `variance` + d² / n instead of r / n. For one seed, the two expressions are
    equal. For F1, a document that differs changes the value by `step` instead of 1 / n.
    """
    n = effective_size
    observed = (1 - 1 / n) * variance + value**2 / n
    linear = observed + value * truth / n
    constant = step**2 * truth * (value - truth) + observed * truth**2 / n
    second_moment = (linear + np.sqrt(np.maximum(linear**2 - 4 * constant, 0.0))) / 2
    return np.maximum(second_moment - truth**2 / n, 0.0)


def agreeing_with_test(interval: tuple[float, float], value: float, is_significant: bool) -> tuple[float, float]:
    """Return the interval of a difference, changed to exclude zero exactly if a test calls the difference significant.

    If the difference is significant, an end beyond zero is cut at zero. If it is not, an interval that excludes zero is
    extended to zero. Both changes keep the confidence level if the test keeps its level (Strassburger and Bretz 2008,
    Statistics in Medicine 27:4914).
    """
    low, high = interval
    if not is_significant:
        return min(low, 0.0), max(high, 0.0)
    return (max(low, 0.0), high) if value > 0 else (low, min(high, 0.0))


def t_quantile(probability: float, df: float) -> float:
    """Return a quantile of Student's t. scipy.stats.t.ppf has bit-identical results but is forty times slower."""
    return float(special.stdtrit(df, probability))


def t_tail(value: float, df: float) -> float:
    """Return P(t > value) for Student's t."""
    return float(special.stdtr(df, -value))
