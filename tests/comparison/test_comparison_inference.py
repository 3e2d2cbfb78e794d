"""Check critical values, variances and predicted chances against published tables, scipy and random draws.

Cases computed by hand are in test_comparison_statistics.py.
"""

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS

from imdbcls.comparison.estimate import Estimate, SeedVariance
from imdbcls.comparison.inference import Pair, dunnett, infer, short_list
from imdbcls.comparison.power import PRIOR_DF, chance_by_flat_prior, chances_to_settle
from imdbcls.comparison.statistics import Sample, Units, mean_over_seeds, seed_variances

# Dunnett (1955), JASA 50:1096, table 1a: one-sided 95 % critical values for 1 to 6 comparisons with a control.
PUBLISHED = {
    5: (2.02, 2.44, 2.68, 2.85, 2.98, 3.08),
    10: (1.81, 2.15, 2.34, 2.47, 2.56, 2.64),
    20: (1.72, 2.03, 2.19, 2.30, 2.39, 2.46),
    60: (1.67, 1.95, 2.10, 2.21, 2.28, 2.35),
    float("inf"): (1.64, 1.92, 2.06, 2.16, 2.23, 2.29),
}


def sample_of(correct_SN: list[list[int]] | np.ndarray, units: Units) -> Sample:
    correct_SN = np.asarray(correct_SN, dtype=float)
    return Sample.of(correct_SN.mean(axis=1), (correct_SN - correct_SN.mean(axis=1, keepdims=True)).T, units)


def flat_sample(values: list[float], units: Units) -> Sample:
    """Return a sample with given values and no variance over documents."""
    return Sample(np.array(values), np.zeros((len(units), len(values))), units)


def random_outcomes(num_seeds: int, num_documents: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=num_documents) + generator.normal(size=(num_seeds, num_documents))
    return (scores > -1).astype(float)


@pytest.mark.parametrize("df", PUBLISHED)
def test_dunnett_agrees_with_the_published_table(df: float) -> None:
    found = [dunnett(num_comparisons, df) for num_comparisons in range(1, 7)]
    assert found == pytest.approx(PUBLISHED[df], abs=0.0061)  # the table is rounded to two digits


@pytest.mark.parametrize(("num_comparisons", "df"), [(2, 4), (4, 12), (6, 30)])
def test_dunnett_agrees_with_the_multivariate_t_of_scipy(num_comparisons: int, df: int) -> None:
    correlation = np.full((num_comparisons, num_comparisons), 0.5) + 0.5 * np.eye(num_comparisons)
    critical = np.full(num_comparisons, dunnett(num_comparisons, df))
    inside = stats.multivariate_t(shape=correlation, df=df, seed=1).cdf(critical, maxpts=200_000)
    assert inside == pytest.approx(0.95, abs=0.0015)


@pytest.mark.parametrize("num_comparisons", [1, 2, 99])
@pytest.mark.parametrize("df", [0.0, 1e-3, 0.3, 0.5, 0.7, 1.0])
def test_dunnett_with_hardly_any_degrees_of_freedom_is_large(num_comparisons: int, df: float) -> None:
    """Two films of very unequal size give nearly no degrees of freedom. The short list then keeps all groups."""
    assert dunnett(num_comparisons, df) >= stats.t.isf(0.05, max(df, 0.5)) - 1e-9
    assert (dunnett(num_comparisons, df) == np.inf) == (df < 0.5)


def test_dunnett_agrees_with_the_test_of_scipy() -> None:
    """`scipy.stats.dunnett` rejects exactly the comparisons whose statistic exceeds the value of `dunnett`."""
    generator = np.random.default_rng(2)
    groups = [generator.normal(shift, 1, 6) for shift in (0.0, 0.9, 1.4, 2.0, 0.2)]
    result = stats.dunnett(*groups[1:], control=groups[0], alternative="greater", rng=np.random.default_rng(1))
    critical = dunnett(4, 5 * 5)
    assert [p < 0.05 for p in result.pvalue] == [statistic > critical for statistic in result.statistic]
    assert 0 < sum(p < 0.05 for p in result.pvalue) < 4


def test_with_floor_variance_is_that_of_exactly_these_models() -> None:
    """If the floor applies, the variance is the variance over documents of the outcomes averaged over seeds."""
    correct_SN = random_outcomes(3, 400)
    correct_SN[:, :200] = correct_SN[0, :200]  # the seeds agree on half of the documents
    sample = sample_of(correct_SN, Units(400))
    sample = Sample(np.full(3, sample.values_S.mean()), sample.sums_GS, sample.units)  # no variance between seeds
    (variance,) = seed_variances([sample])
    assert mean_over_seeds(sample, variance).variance == pytest.approx(correct_SN.mean(axis=0).var(ddof=1) / 400)


@pytest.mark.parametrize("num_units", [3, 50])
def test_clusters_of_equal_size_have_textbook_values(num_units: int) -> None:
    units = Units(4 * num_units, np.repeat(np.arange(num_units), 4))
    assert units.degrees_of_freedom == pytest.approx(num_units - 1)
    assert units.variance_factor == pytest.approx(num_units / (num_units - 1) / (4 * num_units) ** 2)
    assert Units(num_units).variance_factor == pytest.approx(1 / (num_units - 1) / num_units)


def test_cluster_variance_is_unbiased_where_the_sandwich_estimator_is_too_small() -> None:
    """All documents of a film have the same value, so the variance of the mean is known: Σn² / N²."""
    sizes = np.array([40, 20, 10, 5, 5, 2, 2, 1])
    films_N = np.repeat(np.arange(8), sizes)
    units, generator = Units(len(films_N), films_N), np.random.default_rng(3)
    truth = (sizes**2).sum() / sizes.sum() ** 2
    ours, sandwich = [], []
    for _ in range(2_000):
        values_N = generator.normal(size=8)[films_N]
        ours.append(Sample.of([0.0], (values_N - values_N.mean())[:, None], units).own_covariance[0, 0])
        fit = OLS(values_N, np.ones(len(films_N))).fit(
            cov_type="cluster", cov_kwds={"groups": films_N, "use_correction": True}
        )
        sandwich.append(fit.bse[0] ** 2)
    assert np.mean(ours) == pytest.approx(truth, rel=0.06)
    assert np.mean(sandwich) < 0.8 * truth


def test_short_list_keeps_groups_within_the_critical_difference() -> None:
    units = Units(50)
    means = (0.0, -0.01, -0.2, -0.3)
    samples = [flat_sample([mean - 0.01, mean, mean + 0.01], units) for mean in means]
    pairs = [Pair(i, j) for i in range(4) for j in range(i + 1, 4)]
    inferences = infer(samples, pairs, None)
    estimate = inferences[0].estimate
    critical = dunnett(3, estimate.degrees_of_freedom) * estimate.standard_error
    assert 0.01 < critical < 0.19
    by_pair = {(pair.a, pair.b): inference for pair, inference in zip(pairs, inferences, strict=True)}
    assert short_list(4, by_pair, higher_is_better=True) == [0, 1]
    assert short_list(4, by_pair, higher_is_better=False) == [3]  # the next group is 0.1 behind


def test_chance_to_settle_agrees_with_draws_from_its_posterior() -> None:
    """Draw the seed variance, the mean over very many seeds, and the mean over `later` seeds. Then count verdicts."""
    estimate = Estimate(0.004, (SeedVariance(1e-5, 2, 3), SeedVariance(1e-5, 2, 3)), 1e-6, 5_000)
    level, margin, later, num_draws = 0.05, 0.003, 8, 200_000
    generator = np.random.default_rng(5)
    df = 4 + PRIOR_DF  # (Σ v)² / Σ (v² / df) for two equal variances v with df = 2
    scale = df / generator.chisquare(df, num_draws)
    seed_now, seed_later = scale * 2e-5 / 3, scale * 2e-5 / later
    weight = estimate.value**2 / (estimate.value**2 + seed_now)
    truth = generator.normal(weight * estimate.value, np.sqrt(weight * seed_now))  # the mean over very many seeds
    # The mean over all `later` seeds combines the present seeds with new seeds, which are drawn around `truth`.
    new = generator.normal(truth, np.sqrt(scale * 2e-5 / (later - 3)))
    mean = (3 * estimate.value + (later - 3) * new) / later
    larger_df = Estimate(0, (SeedVariance(1e-5, 7, 8), SeedVariance(1e-5, 7, 8)), 1e-6, 5_000).degrees_of_freedom
    error = np.sqrt(estimate.document_variance + seed_later)
    better = np.abs(mean) > stats.t.isf(level / 2, larger_df) * error
    equivalent = np.abs(mean) < margin - stats.t.isf(level, larger_df) * error
    chances = chances_to_settle(estimate, level, margin)
    assert chances[later] == pytest.approx((better | equivalent).mean(), abs=0.01)
    assert np.isnan(chances[:2]).all()


@pytest.mark.parametrize("margin", [None, 0.003, 0.01])
def test_chance_by_flat_prior_agrees_with_draws(margin: float | None) -> None:
    """Draw the later mean from Student's t distribution around the present mean. Then count verdicts."""
    estimate = Estimate(0.004, (SeedVariance(1e-5, 2, 3), SeedVariance(1e-5, 2, 3)), 1e-6, 5_000)
    levels, later = (0.01, 0.02), 8
    draws = np.random.default_rng(6).standard_t(4, 400_000)
    mean = estimate.value + np.sqrt(2e-5 / 3 - 2e-5 / later) * draws
    larger = Estimate(0, (SeedVariance(1e-5, 7, 8), SeedVariance(1e-5, 7, 8)), 1e-6, 5_000)
    settled = np.abs(mean) > stats.t.isf(levels[0] / 2, larger.degrees_of_freedom) * larger.standard_error
    if margin is not None:
        low = margin - stats.t.isf(levels[1], larger.degrees_of_freedom) * larger.standard_error
        settled |= np.abs(mean) < low
    assert chance_by_flat_prior(estimate, later, levels, margin) == pytest.approx(settled.mean(), abs=0.005)
