"""Error rates of the comparison in simulated studies, whose true differences are known.

The studies come from experiments/null_simulation, with fewer documents. Its README has precise numbers. Each rule
that limits an error rate is also switched off. Without the rule, the rate must exceed the bound that holds with it.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from draws import Setting, draw_outcomes, draw_samples, sample_of_outcomes
from metric_studies import METRIC_NAMES, calibration_studies, metric_studies
from simulate import (
    MARGIN,
    RULE_SETTINGS,
    SETTLE_SEEDS,
    SETTLE_TARGETS,
    all_pairs,
    collapse_studies,
    equal,
    error_studies,
    films,
    judged,
    pooled_studies,
    rule_studies,
    settle_studies,
    short_list_studies,
    unstable,
)

from imdbcls.comparison import inference
from imdbcls.comparison.group import Group
from imdbcls.comparison.inference import Pair, infer
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.pairs import compare_pairs
from imdbcls.comparison.power import minimum_detectable_difference
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.samples import sample_of, units_of
from imdbcls.comparison.verdicts import LEVEL, Outcome
from imdbcls.runs.predictions import Predictions

pytestmark = pytest.mark.usefixtures("fast")


def generator_of(seed: int) -> np.random.Generator:
    return np.random.default_rng([19, seed])


def group_of(name: str, correct_SN: np.ndarray) -> Group:
    """Return a group with one run per row of `correct_SN`. Class 0 is the label of every document."""
    ids = np.array([f"{i:05d}" for i in range(correct_SN.shape[1])], dtype=object)
    runs = []
    for seed, correct_N in enumerate(correct_SN):
        predicted = (1 - correct_N).astype(np.int64)
        tokens = np.ones(len(ids), dtype=np.int64)
        labels, probabilities_NC = np.zeros_like(predicted), np.eye(2)[predicted]
        predictions = Predictions(ids, labels, predicted, probabilities_NC, tokens, None, ("0", "1"))
        runs.append(Run(f"{name}-s{seed}", {"seed": seed, "split_hash": "5a17"}, {}, [], predictions))
    return Group(name, name, "minilm", tuple(runs))


def test_simulation_agrees_with_the_command() -> None:
    """The samples of the simulation lead to the results that `compare` computes from predictions."""
    setting = Setting((2, 3, 3), (0.5, 0.5, 0.5), 1_000, behind=(0.0, 0.2, 4.0))
    outcomes = draw_outcomes(setting, generator_of(1))
    groups = [group_of(name, correct_SN) for name, correct_SN in zip("abc", outcomes, strict=True)]
    samples = [
        sample_of(group, METRICS["accuracy"], units) for group, units in zip(groups, units_of(groups), strict=True)
    ]
    results, _ = compare_pairs(groups, samples, METRICS["accuracy"], MARGIN, list(combinations(range(len(groups)), 2)))
    units = setting.units()
    simulated = infer([sample_of_outcomes(correct_SN, units) for correct_SN in outcomes], all_pairs(3), MARGIN)
    for result, expected in zip(results, simulated, strict=True):
        found = (result.difference, result.p_value, result.p_holm, result.p_equivalence_holm)
        wanted = (expected.estimate.value, expected.p_value, expected.p_holm, expected.p_equivalence_holm)
        assert found == pytest.approx(wanted, rel=1e-4)
        assert (result.simultaneous_low, result.simultaneous_high) == pytest.approx(expected.simultaneous, rel=1e-4)
        assert result.outcome == expected.outcome
        assert result.missing_seeds == expected.missing_seeds
    assert {result.outcome for result in results} == {Outcome.BETTER, Outcome.UNDECIDED}


@pytest.mark.parametrize(
    "setting",
    [
        equal(2, 2, 0.5, 2_000),
        equal(2, 10, 0.5, 2_000),
        equal(2, 5, 0.0, 2_000),
        equal(7, 2, 0.5, 1_000),
        equal(7, 3, 1.0, 1_000),
        unstable(2, 3, 0.3, 2_000),
        unstable(7, 2, 0.2, 1_000),
        Setting((3, 10), (0.8, 0.8), 2_000),
        Setting((3, 3, 2), (0.8, 0.8, 0.8), 2_000),
        films(20),
    ],
    ids=["2x2", "2x10", "2x5-no-seed-effect", "7x2", "7x3", "unstable", "7-unstable", "3v10", "3-3-2", "films"],
)
def test_error_rates_stay_low(setting: Setting) -> None:
    """With a true rate of 5 %, errors in over 9 % of 200 studies have probability 0.007. Some rates are far lower."""
    units, generator = setting.units(), generator_of(2)
    better, equivalent, interval, all_intervals = np.mean(
        [judged(draw_samples(setting, generator, units), setting.accuracies, infer) for _ in range(200)], axis=0
    )
    assert better <= 0.09
    assert equivalent <= 0.09
    assert 0.92 <= interval <= 0.995
    assert all_intervals >= 0.915


@pytest.mark.parametrize(
    ("rule", "number", "num_studies", "bound"),
    [
        ("floor", 3, 100, 0.05),
        ("shrinkage", 0, 150, 0.08),
        ("upper limits", 0, 800, 0.075),
        ("two against many", 0, 250, 0.05),
        ("Holm", 0, 100, 0.08),
        ("unequal clusters", 0, 700, 0.075),
    ],
)
def test_without_a_rule_an_error_rate_leaves_its_bound(rule: str, number: int, num_studies: int, bound: float) -> None:
    """Every rule except the floor limits the number of false "better".

    The p-value for exactly these trained models ignores other seeds. The floor keeps every p-value at or above it.
    """
    found = rule_studies(rule, RULE_SETTINGS[rule], generator_of(3), num_studies).mean(axis=0)
    with_rule, without_rule = found[2 * number : 2 * number + 2]
    assert with_rule <= bound < without_rule


def test_equivalence_of_six_pairs_at_the_margin_is_corrected() -> None:
    """One of seven heads is better than the others by exactly one margin: six pairs could be falsely "equivalent"."""
    _, _, old, new, *_ = error_studies(equal(7, 5, 0.1, 500), generator_of(4), 150).mean(axis=0)
    assert new <= 0.08 < 0.1 < old


def test_short_list_keeps_the_best_and_is_shorter_than_the_list_of_undecided() -> None:
    setting = replace(equal(7, 3, 0.3, 2_000), behind=(0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0))
    missing, size, undecided = short_list_studies(setting, generator_of(5), 80).mean(axis=0)
    assert missing <= 0.08
    assert size < undecided - 0.3


def test_short_list_of_equal_heads_loses_the_best_too_often_with_an_uncorrected_critical_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = equal(4, 10, 0.3, 500)
    assert short_list_studies(setting, generator_of(6), 150)[:, 0].mean() <= 0.08
    monkeypatch.setattr(inference, "dunnett", lambda num_comparisons, df: 1.645)
    assert short_list_studies(setting, generator_of(6), 150)[:, 0].mean() > 0.1


def test_predicted_chances_agree_with_realised_shares() -> None:
    """Compare averages over three effects. A prediction cannot be right for each effect: the true effect is unknown."""
    rows = np.concatenate(
        [
            settle_studies(
                replace(equal(2, max(SETTLE_TARGETS), 0.3, 2_500), behind=(0.0, effect)), generator_of(i), 30
            )
            for i, effect in enumerate((0.0, 0.3, 1.0))
        ]
    )
    means = rows.mean(axis=0).reshape(len(SETTLE_SEEDS), len(SETTLE_TARGETS), 3)
    assert 0.2 < means[..., 2].mean() < 0.8
    np.testing.assert_array_less(np.abs(means[..., 1] - means[..., 2]), 0.12)


def test_other_metrics_keep_error_rates_with_few_positives() -> None:
    found = metric_studies(0.03, generator_of(7), 80).mean(axis=0).reshape(len(METRIC_NAMES), 4)
    assert METRIC_NAMES == ("accuracy", "f1", "auroc", "brier", "loss")
    assert (found[:, 1] <= 0.09).all()
    assert (found[:, 3] >= 0.91).all()


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_calibrated_models_are_rarely_called_miscalibrated(num_seeds: int) -> None:
    """The plug-in ECE is above zero by chance, so an interval around it often misses the true value."""
    interval, rejected = calibration_studies(num_seeds, 1.6, generator_of(8), 40).mean(axis=0)
    assert rejected <= 0.1
    assert interval <= 0.6


def test_unseen_collapse_is_within_the_reported_limit() -> None:
    """If no seed collapsed, intervals ignore collapse. Only the upper limit of the rate of collapse allows for it."""
    setting = Setting((3, 3), (0.1, 0.1), 10_000, collapse=(0.0, 0.05))
    *_, interval, none_seen, limit_holds = collapse_studies(setting, generator_of(9), 100).mean(axis=0)
    assert none_seen > 0.7 and interval < 0.5
    assert limit_holds == 1


def test_tests_over_documents_reject_too_often_if_seeds_vary() -> None:
    pooled, permuted, better = pooled_studies(equal(2, 5, 1.5, 1_000), generator_of(10), 200).mean(axis=0)
    assert pooled > 0.3 and permuted > 0.2
    assert better <= 0.08


def test_minimum_detectable_difference_has_80_percent_power() -> None:
    setting = Setting((5, 5), (0.5, 0.5), 1_200, behind=(0.0, 2.05))
    units, generator = setting.units(), generator_of(11)
    found = [infer(draw_samples(setting, generator, units), [Pair(0, 1)], MARGIN)[0] for _ in range(400)]
    detectable = np.mean([minimum_detectable_difference(each.estimate, LEVEL) for each in found])
    assert detectable == pytest.approx(0.0205, rel=0.1)  # close to the true difference
    assert 0.74 <= np.mean([each.outcome == Outcome.BETTER for each in found]) <= 0.86


def test_power_is_computed_at_the_strictest_corrected_level() -> None:
    """The level is 5 % divided by the number of pairs that are compared."""
    outcomes = draw_outcomes(equal(3, 5, 0.5, 1_000), generator_of(12))
    groups = [group_of(name, correct_SN) for name, correct_SN in zip("abc", outcomes, strict=True)]
    samples = [
        sample_of(group, METRICS["accuracy"], units) for group, units in zip(groups, units_of(groups), strict=True)
    ]
    pairs, _ = compare_pairs(groups, samples, METRICS["accuracy"], MARGIN, list(combinations(range(len(groups)), 2)))
    for pair, expected in zip(pairs, infer(samples, all_pairs(3), MARGIN), strict=True):
        assert pair.minimum_detectable_difference == minimum_detectable_difference(expected.estimate, LEVEL / 3)
        assert pair.minimum_detectable_difference > minimum_detectable_difference(expected.estimate, LEVEL)
