"""Calibration of the tests: null comparisons, of equally good heads, end in "better" in at most about 5 % of studies.

The studies are simulated by experiments/null_simulation; its README explains the parameters. Seed SDs of 0.02 and 0.05
correspond to 0.2 and 0.5 points of accuracy, and an interaction SD of 0 compares a head with itself. "Better" needs two
significant tests, so the verdict is conservative with three seeds and without seed effects and interactions (2 to 3 %
up to ten seeds). With three seeds, the tests therefore check only an upper bound for the verdict, and the nominal rate
for the interval.
"""

import numpy as np
import pytest
from simulate import FILMS_N, document_weights, evaluate_pair, rejection_rates, simulate

from imdbcls.comparison.pairs import compare_pairs, paired_tests
from imdbcls.comparison.power import minimum_detectable_difference
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.statistics import permutation_p
from imdbcls.comparison.study import Group
from imdbcls.comparison.views.wording import verdict
from imdbcls.runs.predictions import Predictions

NUM_STUDIES = 1_000


def group_of(name: str, correct_SN: np.ndarray) -> Group:
    """Return a group of runs with these outcomes. Class 0 is the label of every document."""
    ids = np.array([f"{i:05d}" for i in range(correct_SN.shape[1])], dtype=object)
    runs = []
    for seed, correct_N in enumerate(correct_SN):
        predicted = (1 - correct_N).astype(np.int64)
        tokens = np.ones(len(ids), dtype=np.int64)
        labels, probabilities_NC = np.zeros_like(predicted), np.eye(2)[predicted]
        predictions = Predictions(ids, labels, predicted, probabilities_NC, tokens, None, ("0", "1"))
        runs.append(Run(f"{name}-s{seed}", {"seed": seed, "split_hash": "5a17"}, {}, [], predictions))
    return Group(name, name, "minilm", tuple(runs))


@pytest.mark.parametrize("lead", [0.0, 0.15, 0.3])
def test_simulation_agrees_with_compare_pairs(lead: float) -> None:
    """The simulation has the same estimate, p-values and `significant` as comparison.json."""
    correct, other = simulate(np.random.default_rng([7, int(100 * lead)]), 5, 0.5, 0.05, lead)
    weights = document_weights()
    estimate, p_permutation, significant = evaluate_pair(correct, other, weights)
    draws = {"a": weights @ correct.T, "b": weights @ other.T}
    (pair,) = compare_pairs([(group_of("a", correct), group_of("b", other))], draws, margin=0.003)
    assert pair.difference == pytest.approx(estimate.value, abs=1e-7)
    assert pair.p_hierarchical_holm == pytest.approx(estimate.p_value(), rel=1e-4)
    assert pair.p_holm == pytest.approx(p_permutation, abs=0.03)
    assert pair.significant == significant == verdict(pair).startswith("a is better than b")


def test_power_is_computed_at_the_strictest_corrected_level() -> None:
    """The level is 5 % divided by the number of pairs that are compared."""
    weights, groups = document_weights(), []
    for name in "abc":
        correct, _ = simulate(np.random.default_rng(ord(name)), 5, 0.5, 0.05)
        groups.append((group_of(name, correct), weights @ correct.T))
    (first, _), *others = groups
    draws = {group.name: drawn for group, drawn in groups}
    against_first = compare_pairs([(group, first) for group, _ in others], draws, margin=0.003)
    for pair, (group, _) in zip(against_first, others, strict=True):
        estimate = paired_tests(group, first, draws[group.name], draws["a"]).estimate
        assert pair.minimum_detectable_difference == minimum_detectable_difference(estimate, 0.025)
        assert pair.minimum_detectable_difference > minimum_detectable_difference(estimate, 0.05)


@pytest.mark.parametrize(
    ("num_seeds", "interaction_sd", "seed_sd"), [(5, 0.5, 0.05), (10, 0.5, 0.02), (20, 0.5, 0.05), (20, 0.0, 0.05)]
)
def test_null_comparisons_with_many_seeds_are_rejected_at_nominal_rate(
    num_seeds: int, interaction_sd: float, seed_sd: float
) -> None:
    missed, _, better, _ = rejection_rates(num_seeds, interaction_sd, seed_sd, NUM_STUDIES)
    assert 0.03 <= better <= 0.07
    assert 0.03 <= missed <= 0.07


def test_null_comparisons_with_three_seeds_are_rejected_at_most_at_nominal_rate() -> None:
    missed, _, better, _ = rejection_rates(3, 0.5, 0.05, NUM_STUDIES)
    assert better <= 0.07
    assert 0.03 <= missed <= 0.07


def test_clusters_keep_rejection_rate_nominal() -> None:
    """If heads interact with films, tests with clusters keep the nominal rate, and tests without reject more often."""
    clustered = rejection_rates(5, 0.5, 0.05, 400, film_sd=0.5, clusters_N=FILMS_N)
    ignored = rejection_rates(5, 0.5, 0.05, 400, film_sd=0.5)
    assert 0.02 <= clustered[0] <= 0.08 and clustered[2] <= 0.08
    assert ignored[0] > clustered[0] + 0.02 and ignored[1] > clustered[1] + 0.04


def test_permutation_test_alone_rejects_too_often_if_seeds_vary() -> None:
    """The verdict needs a second test because the permutation test is valid only for the given trained models."""
    generator = np.random.default_rng(5)
    p_values = [permutation_p(*simulate(generator, 5, 0.5, 0.2)) for _ in range(300)]
    assert np.mean(np.array(p_values) < 0.05) > 0.25


def test_minimum_detectable_difference_has_80_percent_power() -> None:
    generator = np.random.default_rng(8)
    lead = 0.185
    weights = document_weights()
    results = [evaluate_pair(*simulate(generator, 5, 0.5, 0.05, lead), weights) for _ in range(600)]
    detectable = np.mean([minimum_detectable_difference(estimate, 0.05) for estimate, _, _ in results])
    difference = np.mean([estimate.value for estimate, _, _ in results])
    power = np.mean([significant for _, _, significant in results])
    # `lead` is chosen such that the true difference is close to the detectable one.
    assert difference == pytest.approx(detectable, rel=0.15)
    assert 0.68 <= power <= 0.9
