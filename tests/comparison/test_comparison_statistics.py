"""Check the statistics against scipy, statsmodels and scikit-learn, or against cases computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from imdbcls.comparison import scores
from imdbcls.comparison.power import minimum_detectable_difference, seeds_needed, with_seeds
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.statistics import (
    Estimate,
    covariance_over,
    difference_over_seeds,
    document_draws,
    exact_mcnemar,
    holm,
    mean_over_seeds,
    permutation_p,
)
from imdbcls.comparison.study import Group
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.predictions import Predictions


def outcomes(
    num_seeds: int, num_documents: int = 800, lead: float = 0.25, random_seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(random_seed)
    difficulty = generator.normal(1.3, 1, num_documents)
    first, second = (
        difficulty
        + advantage
        + 0.1 * generator.normal(size=(num_seeds, 1))
        + generator.normal(size=(num_seeds, num_documents))
        for advantage in (lead, 0.0)
    )
    return (first > 0).astype(np.float32), (second > 0).astype(np.float32)


def predictions(labels: np.ndarray, predicted: np.ndarray, probabilities_NC: np.ndarray) -> Predictions:
    num_documents, num_classes = probabilities_NC.shape
    ids = np.array([f"{i:05d}" for i in range(num_documents)], dtype=object)
    tokens, names = np.full(num_documents, 9), tuple(str(label) for label in range(num_classes))
    return Predictions(ids, labels, predicted, probabilities_NC, tokens, None, names)


def random_predictions(num_classes: int, num_documents: int = 500) -> Predictions:
    generator = np.random.default_rng(num_classes)
    labels = generator.integers(0, num_classes, num_documents)
    logits = generator.normal(size=(num_documents, num_classes))
    logits[np.arange(num_documents), labels] += 1.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return predictions(labels, probabilities.argmax(axis=1), probabilities.astype(np.float32))


def test_mcnemar_agrees_with_statsmodels_and_the_binomial_test() -> None:
    first, second = (correct[0] for correct in outcomes(1))
    only_first, only_second, p = exact_mcnemar(first, second)
    both, neither = int((first * second).sum()), int(((1 - first) * (1 - second)).sum())
    assert p == pytest.approx(mcnemar([[both, only_first], [only_second, neither]], exact=True).pvalue, abs=0)
    assert p == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    # The discordant documents are 1 and 5: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14/64.
    first = np.array([1, 0, 0, 0, 0, 0, 1, 1])
    second = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    assert exact_mcnemar(first, second) == (1, 5, pytest.approx(14 / 64))
    assert exact_mcnemar(first, first) == (0, 0, 1.0)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_permutation_agrees_with_scipy(num_seeds: int) -> None:
    first, second = outcomes(num_seeds, num_documents=300, lead=0.22)
    ours = permutation_p(first, second)
    theirs = stats.permutation_test(
        (first.mean(0, dtype=float), second.mean(0, dtype=float)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    assert 0.001 < theirs < 0.9
    assert ours == pytest.approx(theirs, abs=0.012)


def test_permutation_by_hand() -> None:
    # Only the first gets five documents right: 2 of 32 sign patterns are as extreme.
    first, second = np.ones((1, 8), np.float32), np.array([[0, 0, 0, 0, 0, 1, 1, 1]], np.float32)
    assert permutation_p(first, second) == pytest.approx(2 / 32, rel=1e-12)
    assert permutation_p(first, first) == 1.0
    assert permutation_p(np.ones((1, 400), np.float32), np.zeros((1, 400), np.float32)) == 2.0**-399


def test_permutation_flips_clusters_as_units() -> None:
    # The first gets all documents of three films right and the second those of a fourth: sums 3, 2, 2 and -1.
    first = np.array([[1, 1, 1, 1, 1, 1, 1, 0]], np.float32)
    films_N = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    assert permutation_p(first, 1 - first, films_N) == pytest.approx(4 / 16, rel=1e-12)  # |sum| >= 6: 8, 6, -6, -8
    singles = np.arange(8)[::-1]
    assert permutation_p(first, 1 - first, singles) == permutation_p(first, 1 - first)


def test_cluster_bootstrap_has_cluster_robust_standard_error() -> None:
    """The reference is the sandwich estimator of statsmodels, with clusters of very different sizes."""
    generator = np.random.default_rng(4)
    films_N = np.repeat(np.arange(150), generator.integers(1, 12, 150))
    correct_N = (generator.normal(size=150)[films_N] + generator.normal(size=len(films_N)) > -1).astype(float)
    fit = OLS(correct_N, np.ones(len(films_N))).fit(cov_type="cluster", cov_kwds={"groups": films_N})
    draws = document_draws(correct_N[:, None], films_N)[:, 0]
    assert draws.std(ddof=1) == pytest.approx(fit.bse[0], rel=0.06)
    assert draws.std(ddof=1) > 1.3 * document_draws(correct_N[:, None])[:, 0].std(ddof=1)
    single = document_draws(correct_N[:, None], np.arange(len(films_N)))
    np.testing.assert_allclose(single, document_draws(correct_N[:, None]), atol=1e-6)


def test_permutation_compares_means_for_unequal_numbers_of_seeds() -> None:
    first, second = outcomes(3)
    assert permutation_p(first, second[:2]) == pytest.approx(
        permutation_p(np.tile(first, (2, 1)), second[:2]), abs=0.01
    )


def test_document_bootstrap_agrees_with_scipy() -> None:
    correct = outcomes(1)[0][0]
    draws = document_draws(correct[:, None])[:, 0]
    theirs = stats.bootstrap((correct,), np.mean, n_resamples=4_000, method="percentile", rng=np.random.default_rng(1))
    assert draws.std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.05)
    interval = theirs.confidence_interval
    assert np.percentile(draws, [2.5, 97.5]) == pytest.approx([interval.low, interval.high], abs=0.003)
    assert draws.std(ddof=1) == pytest.approx(correct.std() / np.sqrt(len(correct)), rel=0.05)


def test_draws_of_two_groups_with_same_documents_are_paired() -> None:
    first, second = outcomes(2)
    together = document_draws(np.concatenate([first, second]).T)
    assert np.allclose(together, np.concatenate([document_draws(first.T), document_draws(second.T)], axis=1), atol=1e-6)


def test_variance_equals_two_way_analysis_of_variance() -> None:
    """For exact covariances, the variance of a crossed design is (MS_seeds + MS_documents - MS_residual) / SN."""
    correct, _ = outcomes(6)
    num_seeds, num_documents = correct.shape
    means_S, means_N, mean = correct.mean(1), correct.mean(0), correct.mean(dtype=np.float64)
    ms_seeds = num_documents * ((means_S - mean) ** 2).sum() / (num_seeds - 1)
    ms_documents = num_seeds * ((means_N - mean) ** 2).sum() / (num_documents - 1)
    residual = correct - means_S[:, None] - means_N[None, :] + mean
    ms_residual = (residual**2).sum() / ((num_seeds - 1) * (num_documents - 1))
    exact = mean_over_seeds(means_S, np.cov(correct, ddof=0) / num_documents, num_documents)
    assert exact.variance == pytest.approx((ms_seeds + ms_documents - ms_residual) / correct.size, rel=1e-4)
    drawn = mean_over_seeds(means_S, covariance_over(document_draws(correct.T)), num_documents)
    assert drawn.standard_error == pytest.approx(exact.standard_error, rel=0.05)


def test_resampling_seeds_and_documents_agrees_for_many_seeds() -> None:
    """Resampling both has the same variance after subtracting its known excess (Owen 2007)."""
    correct, _ = outcomes(40, num_documents=600)
    num_seeds, num_documents = correct.shape
    draws = document_draws(correct.T, num_draws=4_000)
    generator = np.random.default_rng(2)
    weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), len(draws)) / num_seeds
    resampled = (draws * weights).sum(axis=1).var(ddof=1)
    residual = correct - correct.mean(1, keepdims=True) - correct.mean(0, keepdims=True) + correct.mean()
    # The variance of this bootstrap contains the residual three times instead of once.
    excess = 2 * residual.var() / correct.size
    ours = mean_over_seeds(correct.mean(1), covariance_over(draws), num_documents)
    assert resampled - excess == pytest.approx(ours.variance, rel=0.1)


def test_one_seed_equals_paired_t_test_over_documents() -> None:
    first, second = outcomes(1)
    covariance = np.cov(np.concatenate([first, second]), ddof=0) / first.shape[1]
    estimate = difference_over_seeds(first.mean(1), second.mean(1), covariance, first.shape[1])
    expected = stats.ttest_rel(first[0], second[0])
    assert estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-3)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-6)
    tost = ttost_paired(first[0].astype(float), second[0].astype(float), -0.09, 0.09)
    assert estimate.p_equivalence(0.09) == pytest.approx(tost[0], rel=1e-3)


def test_zero_document_variance_equals_welchs_test() -> None:
    """Without document variance, the test is Welch's test on the accuracies of the seeds."""
    first, second = np.array([0.91, 0.93, 0.92, 0.915]), np.array([0.90, 0.912, 0.905])
    estimate = difference_over_seeds(first, second, np.zeros((7, 7)), 10**6)
    assert estimate.p_value() == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_zero_variance_is_not_an_error() -> None:
    estimate = Estimate(0.0, (0.0, 0.0), (3, 3), 0.0, 100)
    assert estimate.p_value() == 1.0
    assert estimate.interval() == (0.0, 0.0)
    assert estimate.p_equivalence(0.003) == pytest.approx(0.997**100), (
        "a difference in 0.3 % of documents may not occur among 100 documents"
    )


@pytest.mark.parametrize("num_documents", [3, 5, 30, 1_000, 5_000])
def test_detectable_difference_has_power_of_statsmodels(num_documents: int) -> None:
    estimate = Estimate(0.0, (0.0, 0.0), (1, 1), 0.01**2, num_documents)
    effect = minimum_detectable_difference(estimate, 0.05) / (0.01 * num_documents**0.5)
    power = TTestPower().power(effect, num_documents, 0.05, alternative="two-sided")
    assert power == pytest.approx(0.8, abs=0.002)


def test_more_seeds_reduce_only_the_seed_variance() -> None:
    estimate = Estimate(0.004, (4e-6, 4e-6), (3, 3), 1e-6, 25_000)
    assert with_seeds(estimate, 12).seed_variances == pytest.approx((1e-6, 1e-6))
    assert with_seeds(estimate, 12).document_variance == 1e-6
    needed = seeds_needed(estimate, 0.05, margin=0.0005)
    assert needed is not None and needed > 3
    assert minimum_detectable_difference(with_seeds(estimate, needed), 0.05) <= 0.004
    assert minimum_detectable_difference(with_seeds(estimate, needed - 1), 0.05) > 0.004
    assert seeds_needed(Estimate(0.001, (4e-6, 4e-6), (3, 3), 1e-6, 25_000), 0.05, margin=0.0005) is None
    assert seeds_needed(Estimate(0.004, (0.0, 4e-6), (1, 3), 1e-6, 25_000), 0.05, margin=0.0005) is None


@pytest.mark.parametrize("num_classes", [2, 4])
def test_metrics_agree_with_result_json(num_classes: int) -> None:
    """The comparison has its own resampled metrics; those of a run come from scikit-learn and torchmetrics."""
    given = random_predictions(num_classes)
    ours = {metric.name: metric.score(metric.columns(given).mean(axis=0)) for metric in scores.METRICS}
    probabilities = given.probabilities / given.probabilities.sum(axis=1, keepdims=True, dtype=float)
    run = metrics_of(given.true_labels, probabilities)
    brier = ((probabilities - np.eye(num_classes)[given.true_labels]) ** 2).sum(axis=1).mean()
    expected = {**{f"test/{name}": value for name, value in run.items()}, "test/brier": brier}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=2e-6), name


def test_ece_by_hand() -> None:
    # Two predictions with 0.9, one of them wrong: gap 0.4. Two with 0.6, both right: gap 0.4. The average is 0.4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], np.float32)
    given = predictions(np.array([0, 1, 0, 0]), np.zeros(4, int), probabilities)
    ece = next(metric for metric in scores.METRICS if metric.name == "test/ece")
    assert ece.score(ece.columns(given).mean(axis=0)) == pytest.approx(0.4, abs=1e-6)


def test_auroc_bootstrap_agrees_with_resampled_auroc() -> None:
    given = random_predictions(2)
    column = scores.auroc_placements(given)
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(400):
        rows = generator.integers(0, len(given.true_labels), len(given.true_labels))
        resampled.append(sklearn_metrics.roc_auc_score(given.true_labels[rows], given.probabilities[rows, 1]))
    assert document_draws(column).std() == pytest.approx(np.std(resampled), rel=0.12)


def test_auroc_is_undefined_without_documents_of_a_class() -> None:
    given = random_predictions(2)
    only = replace(given, labels=np.zeros_like(given.true_labels))
    assert np.isnan(scores.auroc_placements(only)).all()
    group = Group("one class", "cls", "minilm", (Run("s0", {"seed": 0}, {}, [], only),))
    metrics, _ = scores.score_group(group)
    assert "test/auroc" not in metrics and metrics.keys() >= {"test/accuracy", "test/loss"}
