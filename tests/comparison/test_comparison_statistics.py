"""Check the statistics against scipy, statsmodels and scikit-learn, or against cases computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from imdbcls.comparison.baseline import baseline_of, ensemble_of
from imdbcls.comparison.calibration import calibration_of, ece
from imdbcls.comparison.estimate import Estimate, SeedVariance
from imdbcls.comparison.group import Group
from imdbcls.comparison.inference import Inference, Pair, infer, missing_seeds, short_list
from imdbcls.comparison.metrics import METRICS, auroc
from imdbcls.comparison.power import (
    MAX_SEEDS,
    chances_to_settle,
    minimum_detectable_difference,
    seeds_to_settle,
    with_seeds,
)
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.samples import largest_collapse_rate
from imdbcls.comparison.statistics import (
    Sample,
    Units,
    difference_over_seeds,
    exact_mcnemar,
    floored_variance,
    holm,
    mean_over_seeds,
    permutation_p,
    seed_variances,
)
from imdbcls.comparison.study import Study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.verdicts import Outcome
from imdbcls.errors import UserError
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.predictions import Predictions

ACCURACY = METRICS["accuracy"]


def samples_of(*groups: np.ndarray, clusters_N: np.ndarray | None = None) -> list[Sample]:
    """Return the accuracies of groups with simulated outcomes (S, N) on the same documents."""
    units = Units(groups[0].shape[1], clusters_N)
    means = [correct_SN.mean(axis=1, dtype=np.float64) for correct_SN in groups]
    return [
        Sample.of(values_S, (correct_SN - values_S[:, None]).T, units)
        for values_S, correct_SN in zip(means, groups, strict=True)
    ]


def sample_with(values_S: list[float], influence_NS: np.ndarray | None = None) -> Sample:
    """Return a sample with these values. Without influences, documents have no variance."""
    influence = np.zeros((1_000, len(values_S))) if influence_NS is None else influence_NS
    return Sample.of(values_S, influence, Units(len(influence)))


def estimate_of(value: float, variance_of_mean: float, document_variance: float, num_seeds: int = 3) -> Estimate:
    """Return the difference of two groups with equal seed variances."""
    variance = SeedVariance(variance_of_mean * num_seeds, num_seeds - 1, num_seeds)
    return Estimate(value, (variance, variance), document_variance, 24_999)


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


def group_of(*runs: Predictions) -> Group:
    found = tuple(Run(f"s{seed}", {"seed": seed, "head": "cls"}, {}, [], each) for seed, each in enumerate(runs))
    return Group("cls", "cls", "minilm", found)


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
    ours = permutation_p(first, second, Units(first.shape[1]))
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
    # Only the first model is right on five documents: 2 of 32 sign patterns are as extreme.
    first, second = np.ones((1, 8), np.float32), np.array([[0, 0, 0, 0, 0, 1, 1, 1]], np.float32)
    assert permutation_p(first, second, Units(8)) == pytest.approx(2 / 32, rel=1e-12)
    assert permutation_p(first, first, Units(8)) == 1.0
    assert permutation_p(np.ones((1, 400), np.float32), np.zeros((1, 400), np.float32), Units(400)) == 2.0**-399


def test_permutation_flips_clusters_as_units() -> None:
    # Only the first model is right on three films (3, 2 and 2 documents), and only the second on a film of 1 document.
    first = np.array([[1, 1, 1, 1, 1, 1, 1, 0]], np.float32)
    films_N = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    assert permutation_p(first, 1 - first, Units(8, films_N)) == pytest.approx(
        4 / 16, rel=1e-12
    )  # |sum| >= 6: 8, 6, -6, -8
    singles = np.arange(8)[::-1]
    assert permutation_p(first, 1 - first, Units(8, singles)) == permutation_p(first, 1 - first, Units(8))


def test_permutation_compares_means_for_unequal_numbers_of_seeds() -> None:
    first, second = outcomes(3)
    units = Units(first.shape[1])
    assert permutation_p(first, second[:2], units) == pytest.approx(
        permutation_p(np.tile(first, (2, 1)), second[:2], units), abs=0.01
    )


def test_clusters_have_cluster_robust_standard_error() -> None:
    """The reference is the sandwich estimator of statsmodels, with clusters of very different sizes."""
    generator = np.random.default_rng(4)
    films_N = np.repeat(np.arange(150), generator.integers(1, 12, 150))
    correct_N = (generator.normal(size=150)[films_N] + generator.normal(size=len(films_N)) > -1).astype(float)
    fit = OLS(correct_N, np.ones(len(films_N))).fit(
        cov_type="cluster", cov_kwds={"groups": films_N, "use_correction": False}
    )
    (clustered,) = samples_of(correct_N[None], clusters_N=films_N)
    uncorrected = clustered.own_covariance[0, 0] / clustered.units.variance_factor / len(films_N) ** 2
    assert uncorrected == pytest.approx(fit.bse[0] ** 2, rel=1e-9)
    (single,) = samples_of(correct_N[None], clusters_N=np.arange(len(films_N)))
    (ignored,) = samples_of(correct_N[None])
    assert single.own_covariance == pytest.approx(ignored.own_covariance, rel=1e-12)
    assert clustered.own_covariance[0, 0] > 1.7 * ignored.own_covariance[0, 0]


def test_document_variance_is_unbiased_by_hand() -> None:
    # Four documents in clusters of 3 and 1: sum n² = 10, h = 3/4 and 1/4, sum h² = 5/8.
    # Bias: (9 (1 - 3/2 + 5/8) + 1 (1 - 1/2 + 5/8)) / 10 = (9/8 + 9/8) / 10 = 9/40. Degrees of freedom: 16/10 - 1.
    units = Units(4, np.array([0, 0, 0, 1]))
    assert units.variance_factor == pytest.approx(1 / (9 / 40 * 16))
    assert units.degrees_of_freedom == pytest.approx(0.6)
    independent = Units(4)
    assert independent.variance_factor == pytest.approx(1 / (4 * 3))
    assert independent.degrees_of_freedom == pytest.approx(3)
    assert Units(4, np.zeros(4)).variance_factor == 0, "one cluster has no variance"


@pytest.mark.parametrize("name", ["accuracy", "f1", "auroc", "brier", "loss"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_influence_gives_standard_error_of_the_bootstrap(name: str, num_classes: int) -> None:
    given = random_predictions(num_classes)
    _, influence_N = METRICS[name].evaluate(given)
    assert influence_N.mean() == pytest.approx(0, abs=1e-6)
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(500):
        rows = generator.integers(0, len(given), len(given))
        resampled.append(METRICS[name].evaluate(given.take(rows))[0])
    assert np.sqrt((influence_N**2).sum()) / len(given) == pytest.approx(np.std(resampled), rel=0.1)


@pytest.mark.parametrize("name", ["accuracy", "f1", "brier", "loss"])
def test_influence_is_the_derivative_by_document_weight(name: str) -> None:
    """Repeating one document among N changes the metric by its influence / N, up to terms of order 1 / N²."""
    given = random_predictions(3, num_documents=2_000)
    value, influence_N = METRICS[name].evaluate(given)
    for row in (0, 7, 123):
        repeated, _ = METRICS[name].evaluate(given.take(np.append(np.arange(len(given)), row)))
        assert len(given) * (repeated - value) == pytest.approx(influence_N[row], abs=0.01)


def test_variance_equals_two_way_analysis_of_variance() -> None:
    """The variance of a crossed design is (MS_seeds + MS_documents - MS_residual) / SN."""
    correct, _ = outcomes(6)
    num_seeds, num_documents = correct.shape
    means_S, means_N, mean = correct.mean(1), correct.mean(0), correct.mean(dtype=np.float64)
    ms_seeds = num_documents * ((means_S - mean) ** 2).sum() / (num_seeds - 1)
    ms_documents = num_seeds * ((means_N - mean) ** 2).sum() / (num_documents - 1)
    residual = correct - means_S[:, None] - means_N[None, :] + mean
    ms_residual = (residual**2).sum() / ((num_seeds - 1) * (num_documents - 1))
    (sample,) = samples_of(correct)
    variance = floored_variance(sample)
    assert variance is not None and variance.value == pytest.approx(np.var(sample.values_S, ddof=1)), "not the floor"
    estimate = mean_over_seeds(sample, variance)
    assert estimate.variance == pytest.approx((ms_seeds + ms_documents - ms_residual) / correct.size, rel=1e-4)


def test_one_seed_equals_paired_t_test_over_documents() -> None:
    first, second = outcomes(1)
    estimate = difference_over_seeds(*samples_of(first, second), (None, None))
    expected = stats.ttest_rel(first[0].astype(float), second[0].astype(float))
    assert estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-6)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
    tost = ttost_paired(first[0].astype(float), second[0].astype(float), -0.09, 0.09)
    assert estimate.p_equivalence(0.09) == pytest.approx(tost[0], rel=1e-6)


def test_floor_is_the_variance_that_documents_cause_between_seeds() -> None:
    """The floor is the mean variance over documents minus the mean covariance between seeds."""
    influence_NS = np.random.default_rng(0).normal(size=(500, 3))
    sample = sample_with([0.9, 0.9, 0.9], influence_NS)
    covariance_SS = influence_NS.T @ influence_NS / 500 / 499
    floor = np.trace(covariance_SS) / 3 - (covariance_SS.sum() - np.trace(covariance_SS)) / 6
    variance = floored_variance(sample)
    assert variance is not None
    assert (variance.value, variance.degrees_of_freedom) == (pytest.approx(floor), pytest.approx(499))
    apart = floored_variance(sample_with([0.5, 0.9, 0.7], influence_NS))
    assert apart is not None and (apart.value, apart.degrees_of_freedom) == (pytest.approx(0.04), 2)
    assert floored_variance(sample_with([0.9], influence_NS[:, :1])) is None


def test_seed_variances_are_raised_towards_their_mean_and_never_lowered() -> None:
    # Variances 1, 4 and 25 with three seeds: the mean is 10, and (4 * 10 + 2 * 1) / 6 = 7, (40 + 8) / 6 = 8.
    groups = [sample_with([m - d, m, m + d]) for m, d in ((0.0, 1.0), (5.0, 2.0), (9.0, 5.0))]
    found = [variance for variance in seed_variances(groups) if variance is not None]
    assert [variance.value for variance in found] == pytest.approx([7, 8, 25])
    assert [variance.degrees_of_freedom for variance in found] == [6, 6, 2]
    two = [variance for variance in seed_variances(groups[:2]) if variance is not None]
    assert [variance.value for variance in two] == pytest.approx([1, 4]), "two groups are too few for a mean"
    with_one_seed = seed_variances([*groups[:2], sample_with([0.5])])
    assert with_one_seed[2] is None and [v.value for v in with_one_seed if v] == pytest.approx([1, 4])


def test_collapsed_seeds_do_not_raise_the_variances_of_other_groups() -> None:
    groups = [sample_with([m - d, m, m + d]) for m, d in ((0.0, 1.0), (5.0, 1.0), (9.0, 1.0))]
    groups.append(replace(sample_with([9.0, 10.0, -90.0]), collapsed_S=np.array([False, False, True])))
    found = [variance for variance in seed_variances(groups) if variance is not None]
    # Without the collapsed seed, the last group has the variance 0.5; the mean over groups is 3.5 / 4.
    assert [variance.value for variance in found[:3]] == pytest.approx([1, 1, 1])
    assert found[3].value > 3_000, "the group itself keeps the variance of all its seeds"


def test_degrees_of_freedom_weight_variances_by_their_upper_limits() -> None:
    """The case is computed by hand: two seed variances of 1 with 2 degrees of freedom, and a document variance of 3."""
    limit = 2 / stats.chi2.ppf(0.25, 2)
    documents = 3 * 24_999 / stats.chi2.ppf(0.25, 24_999)
    expected = (2 * limit + documents) ** 2 / (2 * limit**2 / 2 + documents**2 / 24_999)
    assert estimate_of(0.0, 1.0, 3.0).degrees_of_freedom == pytest.approx(expected, rel=1e-9)
    plain = (1 + 1 + 3) ** 2 / (1 / 2 + 1 / 2 + 9 / 24_999)
    assert expected < 0.6 * plain, "plain Satterthwaite has more degrees of freedom"
    assert estimate_of(0.0, 1.0, 0.0).degrees_of_freedom == pytest.approx(4), "for equal variances, Welch has 2 + 2"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    p_values = np.random.default_rng(0).random(30) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_zero_variance_is_not_an_error() -> None:
    estimate = Estimate(0.0, (), 0.0, 99)
    assert estimate.p_value() == 1.0
    assert estimate.interval() == (0.0, 0.0)
    assert estimate.p_equivalence(0.003) == 1.0, "without any variance, equivalence cannot be shown"
    assert replace(estimate, value=0.1).p_value() == 0.0


@pytest.mark.parametrize("num_documents", [3, 5, 30, 1_000, 5_000])
def test_detectable_difference_has_power_of_statsmodels(num_documents: int) -> None:
    estimate = Estimate(0.0, (), 0.01**2, num_documents - 1)
    effect = minimum_detectable_difference(estimate, 0.05) / (0.01 * num_documents**0.5)
    power = TTestPower().power(effect, num_documents, 0.05, alternative="two-sided")
    assert power == pytest.approx(0.8, abs=0.002)


def test_more_seeds_reduce_only_the_seed_variance() -> None:
    estimate = estimate_of(0.004, 4e-6, 1e-6)
    larger = with_seeds(estimate, 12)
    assert [variance.of_mean for variance in larger.seed_variances] == pytest.approx([1e-6, 1e-6])
    assert [variance.degrees_of_freedom for variance in larger.seed_variances] == [11, 11]
    assert larger.document_variance == 1e-6
    assert with_seeds(estimate, 2) == estimate, "a group keeps the seeds that it has"


def test_chance_to_settle_grows_with_seeds_and_knows_its_limits() -> None:
    clear = chances_to_settle(estimate_of(0.02, 4e-6, 1e-6), 0.05, margin=0.003)
    assert np.isnan(clear[:2]).all() and clear[3] > 0.95 and seeds_to_settle(clear, 3) == 4
    unclear = chances_to_settle(estimate_of(0.011, 8e-6, 1e-6), 0.05, margin=0.0005)
    needed = seeds_to_settle(unclear, 3)
    assert needed is not None and needed > 4 and unclear[needed] >= 0.8 > unclear[needed - 1]
    assert (np.diff(unclear[3:]) > -1e-9).all()
    # The documents alone cannot decide a difference of half their standard error.
    hopeless = chances_to_settle(estimate_of(0.0005, 4e-6, 1e-6), 0.05, margin=0.0005)
    assert seeds_to_settle(hopeless, 3) is None and hopeless[MAX_SEEDS] < 0.5
    one_seed = Estimate(0.004, (SeedVariance(1e-5, 2, 3),), 1e-6, 24_999)
    assert np.isnan(chances_to_settle(one_seed, 0.05, 0.003)).all()
    exact = chances_to_settle(estimate_of(0.0, 0.0, 0.0), 0.05, margin=0.003)
    assert exact[MAX_SEEDS] == 1.0, "without any variance, a verdict is predicted for certain"


def test_verdicts_are_corrected_for_all_pairs() -> None:
    """The case is computed by hand: three groups without document variance, with equal seed variances."""
    groups = [sample_with([m - 0.01, m, m + 0.01]) for m in (0.80, 0.815, 0.90)]
    pairs = [Pair(0, 1), Pair(0, 2), Pair(1, 2)]
    found = infer(groups, pairs, margin=0.05)
    variances = [variance for variance in seed_variances(groups) if variance is not None]
    assert [variance.value for variance in variances] == pytest.approx([1e-4] * 3)
    for pair, inference in zip(pairs, found, strict=True):
        expected = difference_over_seeds(groups[pair.a], groups[pair.b], (variances[pair.a], variances[pair.b]))
        assert inference.p_value == pytest.approx(expected.p_value())
        assert inference.simultaneous == pytest.approx(expected.interval(1 - 0.05 / 3))
    assert [inference.p_holm for inference in found] == pytest.approx(holm([f.p_value or 0.0 for f in found]))
    equivalence = [f.p_equivalence_holm for f in found]
    assert equivalence == pytest.approx(holm([f.p_equivalence or 0.0 for f in found]))
    assert [f.outcome for f in found] == [Outcome.EQUIVALENT, Outcome.BETTER, Outcome.BETTER]
    assert all(f.outcome is not Outcome.EQUIVALENT for f in infer(groups, pairs, margin=None))
    single = infer(groups[:2], [Pair(0, 1)], 0.05, min_tests=3)[0]
    assert single.p_value is not None and single.p_holm == pytest.approx(min(1, 3 * single.p_value))


def test_interval_of_significant_difference_excludes_zero() -> None:
    """Holm's method can find a difference whose Bonferroni interval contains zero. The interval then ends at zero."""
    groups = [sample_with([m - 0.01, m, m + 0.01]) for m in (0.10, 0.50, 0.5255)]
    first, _, third = infer(groups, [Pair(0, 1), Pair(0, 2), Pair(1, 2)], margin=None)
    assert first.outcome is third.outcome is Outcome.BETTER
    low, high = third.estimate.interval(1 - 0.05 / 3)
    assert high > 0 > low
    assert third.simultaneous == (low, 0.0)


@pytest.mark.parametrize(
    ("num_seeds", "missing"),
    [((2, 2), (0, 0)), ((2, 3), (1, 0)), ((10, 2), (0, 1)), ((3, 10), (0, 0)), ((1, 5), (0, 0))],
)
def test_two_seeds_are_not_enough_next_to_more(num_seeds: tuple[int, int], missing: tuple[int, int]) -> None:
    assert missing_seeds(*num_seeds) == missing
    spread = 1e-4 * np.arange(10)
    groups = [sample_with(list(m + spread[:n])) for m, n in zip((0.9, 0.5), num_seeds, strict=True)]
    (found,) = infer(groups, [Pair(0, 1)], margin=None)
    assert found.missing_seeds == missing
    assert found.outcome is (Outcome.UNDECIDED if any(missing) else found.outcome)
    if not any(missing):
        assert found.outcome in (Outcome.BETTER, Outcome.BETTER_HERE)


def inferences(*means: float, num_seeds: int = 5) -> dict[tuple[int, int], Inference]:
    spread = np.linspace(-0.01, 0.01, num_seeds)
    groups = [sample_with(list(mean + spread)) for mean in means]
    indices = [(i, j) for i in range(len(means)) for j in range(i + 1, len(means))]
    return dict(zip(indices, infer(groups, [Pair(i, j) for i, j in indices], None), strict=True))


def test_short_list_excludes_groups_below_dunnetts_limit() -> None:
    found = inferences(0.90, 0.895, 0.85)
    assert short_list(3, found, higher_is_better=True) == [0, 1]
    assert short_list(3, found, higher_is_better=False) == [2]
    assert short_list(3, inferences(0.90, 0.899, 0.901), higher_is_better=True) == [0, 1, 2]
    assert short_list(3, inferences(0.90, 0.895, 0.85, num_seeds=1), higher_is_better=True) is None


@pytest.mark.parametrize("num_classes", [2, 4])
def test_metrics_agree_with_result_json(num_classes: int) -> None:
    """`compare` computes metrics with its own code, and a run computes them with scikit-learn and torchmetrics."""
    given = random_predictions(num_classes)
    ours = {name: metric.evaluate(given)[0] for name, metric in METRICS.items()}
    ours["ece"] = ece(given.probabilities.max(axis=1).astype(float), given.correct)
    probabilities = given.probabilities / given.probabilities.sum(axis=1, keepdims=True, dtype=float)
    brier = ((probabilities - np.eye(num_classes)[given.true_labels]) ** 2).sum(axis=1).mean()
    expected = {**metrics_of(given.true_labels, probabilities), "brier": brier}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=2e-6), name


def test_ece_by_hand() -> None:
    # Two predictions with 0.9, one of them wrong: gap 0.4. Two predictions with 0.6, both right: gap 0.4. Average: 0.4.
    assert ece(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True])) == pytest.approx(0.4, abs=1e-6)


def calibrated_predictions(num_documents: int, seed: int, sharpen: float = 1.0) -> Predictions:
    """Return predictions whose labels are drawn from the probabilities before these are sharpened.

    With `sharpen` above 1, the probabilities are overconfident.
    """
    generator = np.random.default_rng(seed)
    positive_N = generator.beta(0.6, 0.6, num_documents)
    labels_N = (generator.random(num_documents) < positive_N).astype(np.int64)
    odds_N = (positive_N / (1 - positive_N)) ** sharpen
    probabilities_NC = np.stack([1 / (1 + odds_N), odds_N / (1 + odds_N)], axis=1)
    return predictions(labels_N, probabilities_NC.argmax(axis=1), probabilities_NC)


def test_ece_of_calibrated_model_is_expected_and_not_significant() -> None:
    found = [calibration_of(group_of(calibrated_predictions(1_000, seed))) for seed in range(60)]
    observed, expected = np.mean([each.mean for each in found]), np.mean([each.expected for each in found])
    assert 0.01 < observed < 0.06, "the plug-in ECE of a calibrated model is above zero"
    assert observed == pytest.approx(expected, rel=0.08)
    rejected = np.mean([each.p < 0.05 for each in found])
    assert rejected <= 0.15
    overconfident = calibration_of(group_of(*(calibrated_predictions(1_000, seed, 3.0) for seed in range(3))))
    assert overconfident.p < 0.01 and overconfident.mean > 2 * overconfident.expected


def test_auroc_is_undefined_without_documents_of_a_class() -> None:
    given = random_predictions(2)
    only = replace(given, labels=np.zeros_like(given.true_labels))
    value, influence_N = auroc(only)
    assert np.isnan(value) and np.isnan(influence_N).all()
    study = Study("one class", (group_of(only, only),), ("0", "1"), ())
    comparison = compare_study(study, ACCURACY, 0.003)
    assert comparison.groups[0].metrics.keys() == {"test/accuracy", "test/f1", "test/brier", "test/loss"}
    with pytest.raises(UserError, match="AUROC is not defined for cls: a class has no test documents"):
        compare_study(study, METRICS["auroc"], None)


def test_auroc_agrees_with_scikit_learn() -> None:
    given = random_predictions(2)
    value, _ = auroc(given)
    assert value == pytest.approx(sklearn_metrics.roc_auc_score(given.true_labels, given.probabilities[:, 1]))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("accuracy", 0.7), ("f1", 2 * 0.7 / 1.7 / 2), ("auroc", 0.5), ("brier", 0.42), ("loss", 0.6108643)],
)
def test_baseline_predicts_the_class_frequencies(metric: str, expected: float) -> None:
    """The expected values are computed by hand: 70 % of the documents are in the first class."""
    labels = np.repeat([0, 1], [70, 30])
    given = predictions(labels, 1 - labels, np.eye(2)[1 - labels])
    assert baseline_of(group_of(given))[f"test/{metric}"] == pytest.approx(expected)


def test_ensemble_averages_probabilities() -> None:
    labels = np.array([0, 0, 1, 1])
    first = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.45, 0.55]])
    second = np.array([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.3, 0.7]])
    group = group_of(*(predictions(labels, each.argmax(axis=1), each) for each in (first, second)))
    found = ensemble_of(group)
    assert found["test/accuracy"] == 0.75, "only the third document is wrong, with 0.55 for the first class"
    assert found["test/brier"] == pytest.approx(np.mean(2 * np.array([0.25, 0.4, 0.55, 0.375]) ** 2))
    assert ensemble_of(group_of(group.runs[0].predictions)) == {}


def test_collapsed_seeds_are_found_and_their_rate_is_bounded() -> None:
    labels = np.repeat([0, 1], 50)
    good, constant = labels.copy(), np.zeros(100, np.int64)
    almost = constant.copy()
    almost[0] = 1
    group = group_of(*(predictions(labels, each, np.eye(2)[each]) for each in (good, constant, almost)))
    assert group.collapsed_S.tolist() == [False, True, True]
    rare = np.array([0] * 97 + [1] * 3)
    assert not group_of(predictions(rare, constant, np.eye(2)[constant])).collapsed_S.any(), "97 % have label 0"
    assert largest_collapse_rate(3) == pytest.approx(1 - 0.05 ** (1 / 3))
    assert largest_collapse_rate(3, 3) == 1.0
    assert largest_collapse_rate(3, 1) == pytest.approx(stats.beta.ppf(0.95, 2, 2))


def test_pair_with_a_collapsed_seed_is_also_judged_without_it() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2_000)

    def predict(accuracy: float, seed: int) -> Predictions:
        right = np.random.default_rng(seed).random(2_000) < accuracy
        predicted = np.where(right, labels, 1 - labels)
        return predictions(labels, predicted, np.eye(2)[predicted])

    constant = predictions(labels, np.zeros(2_000, np.int64), np.eye(2)[np.zeros(2_000, np.int64)])
    good = replace(group_of(*(predict(0.95, seed) for seed in range(4))), name="good")
    poor = replace(group_of(*(predict(0.80, seed) for seed in range(4, 7)), constant), name="poor")
    comparison = compare_study(Study("collapse", (good, poor), ("0", "1"), ()), ACCURACY, 0.003)
    (pair,) = comparison.pairs
    assert pair.num_collapsed == (0, 1)
    rest = pair.without_collapsed
    assert rest is not None and rest.num_seeds == (4, 3) and rest.outcome is Outcome.BETTER
    assert rest.difference == pytest.approx(0.15, abs=0.02) and pair.difference > 0.2


def test_metric_decides_ranks_and_verdicts() -> None:
    """A group with the same predictions but better probabilities is equal in accuracy and better in loss."""
    labels = np.random.default_rng(1).integers(0, 2, 500)
    runs: dict[str, list[Predictions]] = {"sharp": [], "vague": []}
    for seed in range(3):
        right = np.random.default_rng(seed).random(500) < 0.9
        predicted = np.where(right, labels, 1 - labels)
        for name, confidence in (("sharp", 0.9), ("vague", 0.55)):
            probabilities = np.where(np.eye(2)[predicted] == 1, confidence, 1 - confidence)
            runs[name].append(predictions(labels, predicted, probabilities))
    groups = tuple(replace(group_of(*runs[name]), name=name) for name in ("vague", "sharp"))
    study = Study("metrics", groups, ("0", "1"), ())
    by_loss = compare_study(study, METRICS["loss"], None)
    assert [group.name for group in by_loss.groups] == ["sharp", "vague"]
    (pair,) = by_loss.pairs
    assert (pair.leader, pair.outcome) == ("sharp", Outcome.BETTER) and pair.difference < 0
    assert pair.equivalent is None and pair.p_permutation is None and by_loss.short_list == ("sharp",)
    (pair,) = compare_study(study, ACCURACY, 0.003).pairs
    assert pair.difference == 0 and pair.outcome is not Outcome.BETTER
