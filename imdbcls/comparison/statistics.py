"""Statistical inference: estimates over documents and seeds, paired tests, correction for many pairs, equivalence.

A score has two sources of chance: which documents were in the test set, and which seeds were trained. They are crossed
(every seed answers every document), like readers and cases in a reading study of medical images, whose analysis this is
(Obuchowski and Rockette 1995, Communications in Statistics 24:285; degrees of freedom after Hillis 2007, Statistics in
Medicine 26:596, and Satterthwaite 1946):

    variance of a mean over seeds = spread of the seeds' scores / S  +  the document noise that the seeds share

The second term is the mean covariance between *different* seeds over bootstrap draws of documents, where a document's
outcomes over all seeds stay together. What one seed does with one document by chance is in the first term already.

Documents that belong together, the reviews of one film, are not independent: where the runs recorded to which cluster
each belongs, clusters are drawn and flipped whole (as Miller 2024, arXiv:2411.00640, asks of standard errors).

This is the hierarchical bootstrap with its upper level in closed form. Drawing the seeds with replacement as well has
ten outcomes for three seeds, a spread that is too small by (S-1)/S, and counts the chance of single answers about three
times (Owen 2007, Annals of Applied Statistics 1:386, the "pigeonhole" bootstrap). In simulated null comparisons its
percentile intervals rejected 0 to 16 % at a nominal 5 %; this form rejects 3 to 6 % with three seeds or more, and 4 to
6 % with two (experiments/null_simulation, tests/comparison/test_comparison_null.py).
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
MAX_WEIGHTS = 8_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean or difference with its variance in parts; all in the metric's own unit, squared for the variances."""

    value: float
    seed_variances: tuple[float, ...]  # one per group: spread of its seeds' scores, divided by their number
    num_seeds: tuple[int, ...]
    document_variance: float
    num_drawn: int  # documents, or clusters of them, that count as independent

    @property
    def variance(self) -> float:
        return sum(self.seed_variances) + self.document_variance

    @property
    def standard_error(self) -> float:
        return self.variance**0.5

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's degrees of freedom; a variance estimated from n samples has n - 1."""
        parts = [(v, n - 1) for v, n in zip(self.seed_variances, self.num_seeds, strict=True) if n > 1]
        parts.append((self.document_variance, self.num_drawn - 1))
        uncertainty = sum(variance**2 / freedom for variance, freedom in parts if freedom > 0)
        return self.variance**2 / uncertainty if uncertainty > 0 else float("inf")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        half_width = t_quantile(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return self.value - half_width, self.value + half_width

    def p_value(self) -> float:
        """Two-sided p of the hypothesis that the true value is zero for new documents and new seeds."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * t_tail(abs(self.value) / self.standard_error, self.degrees_of_freedom)

    def p_equivalence(self, margin: float) -> float:
        """TOST (Schuirmann 1987): the larger p of the one-sided tests against values beyond -margin and margin.

        Where nothing varied at all, the chance of that if a share `margin` of the documents decided otherwise.
        """
        if self.standard_error == 0:
            return (1 - margin) ** self.num_drawn if abs(self.value) < margin else 1.0
        return t_tail((margin - abs(self.value)) / self.standard_error, self.degrees_of_freedom)


def t_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t; scipy.stats gives the same bits, forty times slower."""
    return float(special.stdtrit(freedom, probability))


def t_tail(value: float, freedom: float) -> float:
    """Return P(t > value) of Student's t."""
    return float(special.stdtr(freedom, -value))


def document_draws(
    columns_NK: np.ndarray,
    clusters_N: np.ndarray | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = DRAW_SEED,
) -> np.ndarray:
    """Return column averages over `num_draws` resamples of the documents (Efron 1979), as a (B, K) float64 matrix.

    Documents of one cluster are drawn together (Davison and Hinkley 1997, on hierarchical data). The same
    seed draws the same documents whatever the columns: two groups' draws over the same ones are paired.
    """
    centre_K = columns_NK.mean(axis=0, dtype=np.float64)
    sums_GK, sizes_G = over_clusters((columns_NK - centre_K).astype(np.float32), clusters_N)
    num_drawn = len(sizes_G)
    generator = np.random.default_rng(seed)
    draws_BK = np.empty((num_draws, columns_NK.shape[1]))
    chunk = max(1, min(num_draws, MAX_WEIGHTS // num_drawn))
    for start in range(0, num_draws, chunk):
        rows = min(chunk, num_draws - start)
        chosen = generator.integers(0, num_drawn, (rows, num_drawn), dtype=np.int32)
        chosen += (np.arange(rows, dtype=np.int32) * num_drawn)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=rows * num_drawn).reshape(rows, num_drawn).astype(np.float32)
        draws_BK[start : start + rows] = weights @ sums_GK / (weights @ sizes_G)[:, None]
    return draws_BK + centre_K


def over_clusters(values_NK: np.ndarray, clusters_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return each cluster's sums (G, K) and number of documents (G); without clusters each document is its own."""
    if clusters_N is None:
        return values_NK, np.ones(len(values_NK), dtype=np.float32)
    _, codes_N, sizes_G = np.unique(clusters_N, return_inverse=True, return_counts=True)
    sums_GK = np.zeros((len(sizes_G), values_NK.shape[1]), dtype=values_NK.dtype)
    np.add.at(sums_GK, codes_N, values_NK)
    return sums_GK, sizes_G.astype(np.float32)


def num_independent(num_documents: int, clusters_N: np.ndarray | None) -> int:
    return num_documents if clusters_N is None else len(np.unique(clusters_N))


def mean_over_seeds(scores_S: np.ndarray, covariance_SS: np.ndarray, num_drawn: int) -> Estimate:
    """Estimate a group's mean score. `covariance_SS` is that of its seeds' scores over draws of documents."""
    seeds = (seed_variance(scores_S),)
    return Estimate(
        value=float(np.mean(scores_S)),
        seed_variances=seeds,
        num_seeds=(len(scores_S),),
        document_variance=document_part(shared_variance(covariance_SS), float(covariance_SS.mean()), seeds, num_drawn),
        num_drawn=num_drawn,
    )


def difference_over_seeds(
    scores_S: np.ndarray, other_scores_S: np.ndarray, covariance: np.ndarray, num_drawn: int
) -> Estimate:
    """Estimate the first group's mean score minus the second's; `covariance` is that of both groups' seeds, in order.

    The two groups' seeds count as independent. Where a shared order of batches moves both groups alike, the interval
    is too wide; it would be too narrow if what helps one group harmed the other. Pairing three seeds would leave two
    degrees of freedom, and rejected up to 8 % of null comparisons at 5 %.
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
        document_variance=document_part(shared, of_these_seeds, seeds, num_drawn),
        num_drawn=num_drawn,
    )


def document_part(shared: float, of_these_seeds: float, seed_variances: tuple[float, ...], num_drawn: int) -> float:
    """Return the documents' part of a variance: what the seeds share of it.

    If that is not positive (models that learnt nothing, each its own constant), the whole is at least the variance
    over documents of these seeds' mean, which no number of seeds with equal scores makes zero.
    """
    return (
        unbiased(shared, num_drawn)
        if shared > 0
        else max(0.0, unbiased(of_these_seeds, num_drawn) - sum(seed_variances))
    )


def seed_variance(scores_S: np.ndarray) -> float:
    """Return the variance of the mean over seeds; zero for one seed, whose spread is unknown (callers must say so)."""
    return float(np.var(scores_S, ddof=1) / len(scores_S)) if len(scores_S) > 1 else 0.0


def shared_variance(covariance_SS: np.ndarray) -> float:
    """Return the mean covariance between different seeds; for one seed all of its variance over documents."""
    num_seeds = len(covariance_SS)
    if num_seeds == 1:
        return float(covariance_SS[0, 0])
    return float((covariance_SS.sum() - np.trace(covariance_SS)) / (num_seeds * (num_seeds - 1)))


def unbiased(bootstrap_variance: float, num_drawn: int) -> float:
    return bootstrap_variance * num_drawn / max(num_drawn - 1, 1)


def covariance_over(draws_BK: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(draws_BK, rowvar=False))


def permutation_p(correct_SN: np.ndarray, other_correct_SN: np.ndarray, clusters_N: np.ndarray | None = None) -> float:
    """Run a two-sided paired permutation test over documents: average outcomes over seeds, flip signs of differences.

    Documents of one cluster are flipped together. Answers for *these trained models*: do they differ on documents like
    these? It sees no variance between seeds. Differences are whole multiples of one unit, so that p over all possible
    flips can be computed (`sign_flips`): p has no lower limit and no sampling error.
    """
    steps_N = np.rint(
        correct_SN.sum(axis=0) * len(other_correct_SN) - other_correct_SN.sum(axis=0) * len(correct_SN)
    ).astype(np.int64)
    return p_of_sign_flips(over_clusters(steps_N[:, None], clusters_N)[0][:, 0])


def exact_mcnemar(correct_N: np.ndarray, other_correct_N: np.ndarray) -> tuple[int, int, float]:
    """Count documents that only the first and only the second got right, with the exact p (McNemar 1947, binomial)."""
    first, second = correct_N.astype(bool), other_correct_N.astype(bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    return only_first, only_second, float(mcnemar(table, exact=True).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false claim among them stays at the level (Holm 1979)."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []
