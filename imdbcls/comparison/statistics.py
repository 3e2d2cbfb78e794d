"""Estimates over documents and seeds: the variance of a mean or of a difference between two groups.

A metric varies with the test documents and with the training seeds. The two factors are crossed, because every seed
predicts every document. In studies of medical images, readers and cases are crossed in the same way. This module
uses the analysis of such studies (Obuchowski and Rockette 1995, Communications in Statistics 24:285; degrees of freedom
after Hillis 2007, Statistics in Medicine 26:596, and Satterthwaite 1946):

    variance of a mean over seeds = variance between seeds / S  +  document variance that the seeds share

**Documents.** The covariance of the seeds over documents comes from the influence of each document on the metric (the
infinitesimal jackknife, Efron 1982; see `metrics`). The second term above is the mean covariance of *different* seeds.
Documents that belong together, such as reviews of one film, are not independent. If the runs recorded clusters,
influences are summed over each cluster first (Liang and Zeger 1986, Biometrika 73:13; Miller 2024, arXiv:2411.00640).

**Seeds.** With few seeds, the sample variance between seeds is often far too small. With many groups, the smallest of
these variances decide which differences are significant. Two rules raise a variance, and none lowers it:

- Floor: the random choice of documents causes a variance between seeds. A smaller seed variance is raised to this
  variance.
- Shrinkage: with three or more groups that have several seeds, the variance of a group is raised towards the mean over
  groups, which counts as four more seeds. No variance is lowered, because an unstable group would then look stable.

**Degrees of freedom.** Satterthwaite's approximation uses estimated variances. If a seed variance happens to be
underestimated, it gets too little weight, and the resulting degrees of freedom are too high. The weights here are
therefore the upper 75 % confidence limits of the variances.

**Steps.** Accuracy and F1 change in steps: a document is right or wrong. If two groups agree on all documents, the
estimated variance of their difference is zero, although they may differ on other documents. Two rules prevent this:

- If the true difference is larger than the observed difference, more documents differ than were observed. Equivalence
  tests and intervals therefore use two tests, and the larger p-value counts. The t-test uses the observed variance.
  Tango's score test for paired proportions (1998, Statistics in Medicine 17:891) uses the variance that is expected
  if the hypothesis is true (`Estimate.variance_if`), here with Student's t instead of the normal distribution.
- The variance of a difference is at least the variance that it would have if the groups differed on one document.

Both rules hardly change anything if many documents differ.

`experiments/null_simulation` reports the error rates with and without each rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import mcnemar

from imdbcls.comparison.estimate import Estimate, SeedVariance
from imdbcls.comparison.sign_flips import p_of_sign_flips

POOL_SEEDS = 4  # weight of the mean seed variance over groups, as a number of seeds
MIN_POOLED = 3  # minimum number of groups with several seeds for a mean seed variance
ROUNDING = 1e-5  # below this share of the groups' variances, the document variance of a difference is a rounding error


class Units:
    """The independent units of N documents: G clusters, or the documents themselves if clusters are not known."""

    def __init__(self, num_documents: int, clusters_N: NDArray | None = None) -> None:
        self.num_documents = num_documents
        self.codes_N: NDArray | None = None
        self.sizes_G = np.ones(num_documents)
        if clusters_N is not None:
            _, self.codes_N, sizes_G = np.unique(clusters_N, return_inverse=True, return_counts=True)
            self.sizes_G = sizes_G.astype(np.float64)

    def __len__(self) -> int:
        return len(self.sizes_G)

    def sums(self, values_NK: NDArray) -> NDArray:
        """Return the sums (G, K) over the documents of each unit."""
        if self.codes_N is None:
            return values_NK
        sums_GK = np.zeros((len(self), values_NK.shape[1]), dtype=values_NK.dtype)
        np.add.at(sums_GK, self.codes_N, values_NK)
        return sums_GK

    @cached_property
    def degrees_of_freedom(self) -> float:
        """The effective number of units minus one. Units of unequal sizes n count as fewer units: (sum n)² / sum n²."""
        return float(self.sizes_G.sum() ** 2 / (self.sizes_G**2).sum() - 1) if self.num_documents else 0.0

    @cached_property
    def variance_factor(self) -> float:
        """The factor that turns a sum of squares over units into an unbiased variance of a mean over documents.

        Deviations from the sample mean are smaller than deviations from the true mean. Their expected sum of squares is
        lower by the factor sum n² (1 - 2 h + sum h²) / sum n², where n is the size of a unit and h = n / N. Without
        clusters, this factor is 1 - 1 / N. With a single unit, no variance can be estimated, and the factor is 0.
        """
        squares_G, shares_G = self.sizes_G**2, self.sizes_G / max(1, self.num_documents)
        bias = float((squares_G * (1 - 2 * shares_G + (shares_G**2).sum())).sum() / max(1.0, squares_G.sum()))
        return 1 / (bias * self.num_documents**2) if bias > 1e-12 else 0.0

    def design_effect(self, squares_of_documents: float, squares_of_units: float) -> float:
        """Return the variance of a mean with clusters, divided by its variance if all documents were independent.

        The arguments are the sums of the squared influences of all documents and of all units. The result is at least
        1. If all influences are zero, return the largest possible value, which assumes that all documents of a cluster
        have the same outcome.
        """
        if self.codes_N is None:
            return 1.0
        largest = self.num_documents / (self.degrees_of_freedom + 1)
        if squares_of_documents == 0:
            return largest
        return float(np.clip(squares_of_units / squares_of_documents, 1.0, largest))


@dataclass(frozen=True, eq=False)
class Sample:
    """One metric of one group with S seeds."""

    values_S: NDArray[np.float64]
    sums_GS: NDArray[np.floating]  # influence of each unit on each value; zero on average over documents
    units: Units  # samples that share this object are paired: they have the same documents in the same order
    collapsed_S: NDArray[np.bool_] | None = None  # seeds that predict one class for nearly all documents; None: no seed
    squares_S: NDArray[np.float64] | None = None  # squared influences, summed over documents; None if `change` is 0
    change: float = 0.0  # influence of a changed prediction, e.g. 1 for accuracy; 0: no smallest change

    @classmethod
    def of(
        cls,
        values_S: Sequence[float] | NDArray,
        influence_NS: NDArray,
        units: Units,
        collapsed_S: NDArray[np.bool_] | None = None,
        change: float = 0.0,
    ) -> "Sample":
        """Build a sample from the influence of each document on each value."""
        squares_S = None if change == 0 else (influence_NS.astype(np.float64) ** 2).sum(axis=0)
        values_S = np.asarray(values_S, dtype=np.float64)
        return cls(values_S, units.sums(influence_NS), units, collapsed_S, squares_S, change)

    def __len__(self) -> int:
        return len(self.values_S)

    def seeds(self, rows: NDArray | Sequence[int]) -> "Sample":
        """Return the sample restricted to the seeds with the indices `rows`."""
        return replace(
            self,
            values_S=self.values_S[rows],
            sums_GS=self.sums_GS[:, rows],
            collapsed_S=None if self.collapsed_S is None else self.collapsed_S[rows],
            squares_S=None if self.squares_S is None else self.squares_S[rows],
        )

    @cached_property
    def effective_size(self) -> float:
        """The number of independent documents with the same information; infinite without a smallest change.

        Clustered documents have less information than independent ones. The effective size is therefore the number of
        documents divided by the design effect: the variance of a value with clusters, divided by its variance without
        them (Kish 1965, "Survey Sampling").
        """
        if self.squares_S is None:
            return float("inf")
        squares_of_units = float((self.sums_GS.astype(np.float64) ** 2).sum())
        return self.units.num_documents / self.units.design_effect(float(self.squares_S.sum()), squares_of_units)

    @property
    def step(self) -> float:
        """The change of a value if the prediction for one independent document changes; 0 without a smallest change."""
        return self.change / self.effective_size

    @property
    def num_collapsed(self) -> int:
        return 0 if self.collapsed_S is None else int(self.collapsed_S.sum())

    @property
    def without_collapsed(self) -> "Sample":
        if self.collapsed_S is None or not self.collapsed_S.any():
            return self
        return self.seeds(np.flatnonzero(~self.collapsed_S))

    def covariance(self, other: "Sample") -> NDArray[np.float64]:
        """Return the covariance over documents (own seeds, seeds of `other`). It is zero if the units differ."""
        if self.units is not other.units:
            return np.zeros((len(self), len(other)))
        return (self.sums_GS.T @ other.sums_GS).astype(np.float64) * self.units.variance_factor

    @cached_property
    def own_covariance(self) -> NDArray[np.float64]:
        return self.covariance(self)

    @property
    def shared_variance(self) -> float:
        """The mean covariance between different seeds, or the variance over documents if there is only one seed."""
        covariance_SS, num_seeds = self.own_covariance, len(self)
        if num_seeds == 1:
            return float(covariance_SS[0, 0])
        return float((covariance_SS.sum() - np.trace(covariance_SS)) / (num_seeds * (num_seeds - 1)))

    @property
    def floor(self) -> float:
        """The variance that the random choice of documents causes between seeds whose true values are equal."""
        return max(0.0, float(np.trace(self.own_covariance)) / len(self) - self.shared_variance)


def seed_variances(samples: Sequence[Sample]) -> list[SeedVariance | None]:
    """Return the seed variance of each group after floor and shrinkage; None for a group with one seed.

    Shrinkage needs `MIN_POOLED` groups with several seeds. The mean over groups is computed without collapsed seeds,
    because a single collapsed seed would widen the intervals of all groups.
    """
    floored = [floored_variance(sample) for sample in samples]
    usual = [floored_variance(sample.without_collapsed) for sample in samples]
    known = [variance.value for variance in usual if variance is not None]
    if len(known) < MIN_POOLED:
        return floored
    mean = float(np.mean(known))
    return [None if variance is None else raised(variance, mean) for variance in floored]


def floored_variance(sample: Sample) -> SeedVariance | None:
    """Return the larger of the sample variance between seeds and the floor, or None for fewer than two seeds."""
    if len(sample) < 2:
        return None
    between, floor = float(np.var(sample.values_S, ddof=1)), sample.floor
    if between >= floor:
        return SeedVariance(between, len(sample) - 1, len(sample))
    return SeedVariance(floor, max(1.0, sample.units.degrees_of_freedom), len(sample))


def raised(variance: SeedVariance, mean: float) -> SeedVariance:
    """Return the variance, raised towards the mean over groups if it is below this mean."""
    num_seeds = variance.num_seeds
    shrunk = (POOL_SEEDS * mean + (num_seeds - 1) * variance.value) / (num_seeds - 1 + POOL_SEEDS)
    if shrunk <= variance.value:
        return variance
    return SeedVariance(shrunk, num_seeds - 1 + POOL_SEEDS, num_seeds)


def mean_over_seeds(sample: Sample, seed_variance: SeedVariance | None) -> Estimate:
    """Estimate the mean over seeds. Without a seed variance, the estimate covers the variation over documents only."""
    return estimate_of(
        value=float(sample.values_S.mean()),
        seed_variances=[seed_variance],
        document_variance=sample.shared_variance,
        document_df=sample.units.degrees_of_freedom,
    )


def difference_over_seeds(
    a: Sample,
    b: Sample,
    seed_variances: Sequence[SeedVariance | None],
    covariance_between: NDArray[np.float64] | None = None,
) -> Estimate:
    """Estimate the mean of `a` minus the mean of `b`, given the seed variances of both groups.

    The seeds of the two groups are treated as independent. If a shared batch order shifts both groups in the same
    direction, the interval is too wide; if it shifts them in opposite directions, the interval is too narrow. Pairing
    the seeds would leave two degrees of freedom for three seeds; in simulations, it rejected up to 8 % of null
    comparisons at 5 %.

    `covariance_between` is `a.covariance(b)`, if the caller already has it.
    """
    between = a.covariance(b) if covariance_between is None else covariance_between
    of_both = a.shared_variance + b.shared_variance
    of_difference = of_both - 2 * float(between.mean())
    return estimate_of(
        value=float(a.values_S.mean() - b.values_S.mean()),
        seed_variances=seed_variances,
        document_variance=of_difference if of_difference > ROUNDING * of_both else 0.0,
        document_df=min(a.units.degrees_of_freedom, b.units.degrees_of_freedom),
        step=max(a.step, b.step),
        effective_size=min(a.effective_size, b.effective_size),
    )


def estimate_of(
    value: float,
    seed_variances: Sequence[SeedVariance | None],
    document_variance: float,
    document_df: float,
    step: float = 0.0,
    effective_size: float = float("inf"),
) -> Estimate:
    """Build an estimate whose variance is at least `step` squared, as if at least one document differed.

    All given variances can be zero, because two groups have the same scores on every document, or because a group is
    right on every document. `step` is then raised to at least 1 / (number of independent documents).
    """
    known = tuple(variance for variance in seed_variances if variance is not None)
    of_seeds, of_documents = sum(variance.of_mean for variance in known), max(0.0, document_variance)
    if of_seeds + of_documents == 0:
        effective_size = min(effective_size, document_df + 1)
        step = max(step, 1 / effective_size)
    return Estimate(value, known, max(of_documents, step**2 - of_seeds), document_df, step, effective_size)


def permutation_p(correct_SN: NDArray, other_correct_SN: NDArray, units: Units) -> float:
    """Return the p-value of a two-sided paired permutation test over documents.

    Outcomes are averaged over seeds, and the signs of the differences between the groups are flipped, with one sign per
    unit. The test asks whether *these trained models* differ on documents like these; it ignores the variance between
    seeds. All differences are multiples of one step, so p is computed over all possible flips (`sign_flips`). It has no
    sampling error and can be arbitrarily small.
    """
    steps_N = np.rint(
        correct_SN.sum(axis=0) * len(other_correct_SN) - other_correct_SN.sum(axis=0) * len(correct_SN)
    ).astype(np.int64)
    return p_of_sign_flips(units.sums(steps_N[:, None])[:, 0])


def exact_mcnemar(correct_N: NDArray, other_correct_N: NDArray) -> tuple[int, int, float]:
    """Return how many documents only the first model gets right, how many only the second, and the exact p-value.

    The test is McNemar's (1947). If both numbers are zero, p is 1.
    """
    first, second = correct_N.astype(bool), other_correct_N.astype(bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    return only_first, only_second, float(mcnemar(table, exact=True).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values to control the family-wise error rate (Holm 1979).

    statsmodels' `multipletests` gives the same values, but runs the garbage collector in each call, which takes longer
    than all tests of a study.
    """
    raw_K = np.asarray(p_values, dtype=np.float64)
    order_K = np.argsort(raw_K)
    factors_K = np.arange(len(raw_K), 0, -1)
    adjusted_K = np.empty_like(raw_K)
    adjusted_K[order_K] = np.minimum(np.maximum.accumulate(factors_K * raw_K[order_K]), 1.0)
    return adjusted_K.tolist()
