"""Statistical inference over documents and seeds: estimates, paired tests, Holm correction and equivalence.

A metric varies with the test documents and with the training seeds. The two factors are crossed, because the model of
every seed predicts every document. Studies in which several readers assess the same medical images have the same
design, and the analysis is taken from them (Obuchowski and Rockette 1995, Communications in Statistics 24:285; degrees
of freedom after Hillis 2007, Statistics in Medicine 26:596, and Satterthwaite 1946):

    variance of a mean over seeds = variance between seeds / S  +  document variance that the seeds share

The second term is the mean covariance between the metrics of two *different* seeds, over bootstrap resamples of the
documents. A resampled document keeps its outcomes for all seeds. The first term already contains the interaction of
seed and document.

Documents that belong together, such as reviews of one film, are not independent. If the runs recorded such clusters,
the bootstrap resamples clusters instead of documents, and the permutation test flips one sign per cluster. Miller
(2024, arXiv:2411.00640) recommends clustered standard errors for the same reason.

Only the documents are resampled; the variance over seeds has a closed form. Resampling the seeds as well (Owen 2007,
Annals of Applied Statistics 1:386, the "pigeonhole" bootstrap) would have three faults: there are only ten different
resamples of three seeds, the variance over seeds is too small by a factor of (S-1)/S, and the interaction counts about
three times. In simulated comparisons of equal groups, its percentile intervals rejected 0 to 16 % at a nominal 5 %. The
method used here rejects 3 to 6 % with three or more seeds and 4 to 6 % with two (experiments/null_simulation,
tests/comparison/test_comparison_null.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from imdbcls.comparison.sign_flips import p_of_sign_flips

NUM_DRAWS = 2_000
DRAW_SEED = 20_070_401
MAX_WEIGHTS = 8_000_000  # bootstrap weights in memory at a time: resamples per chunk times independent units


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, with its variance components. Variances are in the squared unit of the metric."""

    value: float
    seed_variances: tuple[float, ...]  # one per group: variance between its seeds, divided by their number
    num_seeds: tuple[int, ...]
    document_variance: float
    num_units: int  # independent units: clusters if they are known, else documents

    @property
    def variance(self) -> float:
        return sum(self.seed_variances) + self.document_variance

    @property
    def standard_error(self) -> float:
        return self.variance**0.5

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's degrees of freedom. A variance that is estimated from n samples contributes n - 1."""
        parts = [(v, n - 1) for v, n in zip(self.seed_variances, self.num_seeds, strict=True) if n > 1]
        parts.append((self.document_variance, self.num_units - 1))
        uncertainty = sum(variance**2 / freedom for variance, freedom in parts if freedom > 0)
        return self.variance**2 / uncertainty if uncertainty > 0 else float("inf")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        half_width = t_quantile(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return self.value - half_width, self.value + half_width

    def p_value(self) -> float:
        """Return the two-sided p-value of the hypothesis that the true value is zero, over documents and seeds."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * t_tail(abs(self.value) / self.standard_error, self.degrees_of_freedom)

    def p_equivalence(self, margin: float) -> float:
        """Return the p-value of TOST (Schuirmann 1987): the larger p of the one-sided tests at -margin and margin.

        If the standard error is zero and the value is smaller than the margin, return the probability that no unit
        shows a difference although each unit shows one with probability `margin`.
        """
        if self.standard_error == 0:
            return (1 - margin) ** self.num_units if abs(self.value) < margin else 1.0
        return t_tail((margin - abs(self.value)) / self.standard_error, self.degrees_of_freedom)


def t_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t. scipy.stats.t.ppf has bit-identical results but is forty times slower."""
    return float(special.stdtrit(freedom, probability))


def t_tail(value: float, freedom: float) -> float:
    """Return P(t > value) for Student's t."""
    return float(special.stdtr(freedom, -value))


def document_draws(
    columns_NK: np.ndarray,
    clusters_N: np.ndarray | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = DRAW_SEED,
) -> np.ndarray:
    """Return the column averages in `num_draws` bootstrap resamples of the documents (Efron 1979), float64 (B, K).

    Documents of one cluster are resampled together (Davison and Hinkley 1997, on hierarchical data). The same seed
    draws the same documents whatever the columns are, so the draws of two groups with the same documents are paired.
    """
    centre_K = columns_NK.mean(axis=0, dtype=np.float64)
    sums_GK, sizes_G = over_clusters((columns_NK - centre_K).astype(np.float32), clusters_N)
    num_units = len(sizes_G)
    generator = np.random.default_rng(seed)
    draws_BK = np.empty((num_draws, columns_NK.shape[1]))
    chunk = max(1, min(num_draws, MAX_WEIGHTS // num_units))
    for start in range(0, num_draws, chunk):
        rows = min(chunk, num_draws - start)
        chosen = generator.integers(0, num_units, (rows, num_units), dtype=np.int32)
        chosen += (np.arange(rows, dtype=np.int32) * num_units)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=rows * num_units).reshape(rows, num_units).astype(np.float32)
        draws_BK[start : start + rows] = weights @ sums_GK / (weights @ sizes_G)[:, None]
    return draws_BK + centre_K


def over_clusters(values_NK: np.ndarray, clusters_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the values in each cluster (G, K), and the number of its documents (G).

    Without clusters, each document is its own cluster.
    """
    if clusters_N is None:
        return values_NK, np.ones(len(values_NK), dtype=np.float32)
    _, codes_N, sizes_G = np.unique(clusters_N, return_inverse=True, return_counts=True)
    sums_GK = np.zeros((len(sizes_G), values_NK.shape[1]), dtype=values_NK.dtype)
    np.add.at(sums_GK, codes_N, values_NK)
    return sums_GK, sizes_G.astype(np.float32)


def num_independent(num_documents: int, clusters_N: np.ndarray | None) -> int:
    return num_documents if clusters_N is None else len(np.unique(clusters_N))


def mean_over_seeds(scores_S: np.ndarray, covariance_SS: np.ndarray, num_units: int) -> Estimate:
    """Estimate the mean over seeds from each seed's metric and the bootstrap covariance of these metrics."""
    seeds = (seed_variance(scores_S),)
    return Estimate(
        value=float(np.mean(scores_S)),
        seed_variances=seeds,
        num_seeds=(len(scores_S),),
        document_variance=document_variance_of(
            shared_variance(covariance_SS), float(covariance_SS.mean()), seeds, num_units
        ),
        num_units=num_units,
    )


def difference_over_seeds(
    scores_S: np.ndarray, other_scores_S: np.ndarray, covariance: np.ndarray, num_units: int
) -> Estimate:
    """Estimate the mean of the first group minus the mean of the second group.

    `covariance` is the bootstrap covariance of the metrics of all seeds: first those of the first group, then those of
    the second group. The seeds of the two groups are treated as independent. If a shared batch order shifts both groups
    in the same direction, the interval is too wide; if it shifts them in opposite directions, the interval is too
    narrow. The alternative, pairing the groups by seed, would leave two degrees of freedom with three seeds. In
    simulations, it rejected up to 8 % of comparisons of equal groups at a nominal 5 %.
    """
    split = len(scores_S)
    ours, theirs, across = (
        covariance[:split, :split],
        covariance[split:, split:],
        float(covariance[:split, split:].mean()),
    )
    shared = shared_variance(ours) + shared_variance(theirs) - 2 * across
    of_these_seeds = float(ours.mean() + theirs.mean()) - 2 * across
    seeds = (seed_variance(scores_S), seed_variance(other_scores_S))
    return Estimate(
        value=float(np.mean(scores_S) - np.mean(other_scores_S)),
        seed_variances=seeds,
        num_seeds=(len(scores_S), len(other_scores_S)),
        document_variance=document_variance_of(shared, of_these_seeds, seeds, num_units),
        num_units=num_units,
    )


def document_variance_of(
    shared: float, of_these_seeds: float, seed_variances: tuple[float, ...], num_units: int
) -> float:
    """Return the document variance of a mean over seeds.

    Normally, this is `shared`, the covariance between seeds. But `shared` can be zero or negative, for example if each
    model predicts the same class for all documents. Then return the smallest value for which the total variance is at
    least `of_these_seeds`, the variance over documents with exactly these seeds. Without this minimum, the total
    variance would be zero whenever all seeds have the same accuracy.
    """
    return (
        unbiased(shared, num_units)
        if shared > 0
        else max(0.0, unbiased(of_these_seeds, num_units) - sum(seed_variances))
    )


def seed_variance(scores_S: np.ndarray) -> float:
    """Return the part of the variance of a mean over seeds that the seeds cause.

    With one seed, this part is unknown. Zero is returned, and callers must report that seeds were not varied.
    """
    return float(np.var(scores_S, ddof=1) / len(scores_S)) if len(scores_S) > 1 else 0.0


def shared_variance(covariance_SS: np.ndarray) -> float:
    """Return the mean covariance between different seeds, or the variance over documents if there is only one seed."""
    num_seeds = len(covariance_SS)
    if num_seeds == 1:
        return float(covariance_SS[0, 0])
    return float((covariance_SS.sum() - np.trace(covariance_SS)) / (num_seeds * (num_seeds - 1)))


def unbiased(bootstrap_variance: float, num_units: int) -> float:
    return bootstrap_variance * num_units / max(num_units - 1, 1)


def covariance_over(draws_BK: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(draws_BK, rowvar=False))


def permutation_p(correct_SN: np.ndarray, other_correct_SN: np.ndarray, clusters_N: np.ndarray | None = None) -> float:
    """Return the p-value of a two-sided paired permutation test over documents.

    The outcomes of each document are averaged over seeds, and the signs of the differences between the groups are
    flipped, with one sign per cluster. The test asks whether *these trained models* differ on documents like these; it
    ignores the variance between seeds. All differences are integer multiples of one unit, so `sign_flips` can compute p
    over all possible flips, without sampling error or a lower limit.
    """
    steps_N = np.rint(
        correct_SN.sum(axis=0) * len(other_correct_SN) - other_correct_SN.sum(axis=0) * len(correct_SN)
    ).astype(np.int64)
    return p_of_sign_flips(over_clusters(steps_N[:, None], clusters_N)[0][:, 0])


def exact_mcnemar(correct_N: np.ndarray, other_correct_N: np.ndarray) -> tuple[int, int, float]:
    """Run McNemar's exact test (McNemar 1947) on two trained models.

    Return the number of documents that only the first model gets right, the number that only the second model gets
    right, and the p-value.
    """
    first, second = correct_N.astype(bool), other_correct_N.astype(bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    return only_first, only_second, float(mcnemar(table, exact=True).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values to control the family-wise error rate (Holm 1979)."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []
