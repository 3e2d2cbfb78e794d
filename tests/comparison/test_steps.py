"""Groups that agree on all, or on nearly all, of a few documents: what the tests may conclude, and how often they err.

A metric such as accuracy changes in steps of one document. See "Steps" in imdbcls/comparison/statistics.py.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special
from small_studies import AGREEMENTS, small, small_studies

from imdbcls.compare import main
from imdbcls.comparison.inference import Pair, infer
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.power import chances_to_settle
from imdbcls.comparison.statistics import Estimate, Sample, SeedVariance, Units, difference_over_seeds
from imdbcls.comparison.verdicts import Outcome
from imdbcls.runs.predictions import Predictions

EQUAL_WIDTH = 0.03  # 65 documents cannot exclude a difference of 3 points


def accuracies(*groups: np.ndarray, clusters_N: np.ndarray | None = None) -> list[Sample]:
    """Return the accuracies of groups, given their outcomes (S, N)."""
    units = Units(groups[0].shape[1], clusters_N)
    return [
        Sample.of(correct_SN.mean(axis=1), (correct_SN - correct_SN.mean(axis=1, keepdims=True)).T, units, step=1.0)
        for correct_SN in groups
    ]


def paired(only_first: int, only_second: int, num_documents: int) -> Estimate:
    """Return the difference in accuracy of two models, given on how many documents only one of them is right."""
    first_N, second_N = np.ones((2, num_documents))
    first_N[:only_second] = 0
    second_N[only_second : only_second + only_first] = 0
    return difference_over_seeds(*accuracies(first_N[None], second_N[None]), (None, None))


def tango(only_first: int, only_second: int, num_documents: int, difference: float) -> float:
    """Return Tango's score statistic (1998, equations 4 to 6) for a true difference."""
    b, c, n, delta = only_first, only_second, num_documents, difference
    linear, constant = -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
    rate = ((linear**2 - 8 * n * constant) ** 0.5 - linear) / (4 * n)
    return (b - c - n * delta) / (n * (2 * rate + delta * (1 - delta))) ** 0.5


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("num_right", [60, 65])
def test_groups_that_agree_on_65_documents_are_undecided(num_seeds: int, num_right: int) -> None:
    correct_SN = np.tile(np.arange(65) < num_right, (num_seeds, 1)).astype(float)
    (found,) = infer(accuracies(correct_SN, correct_SN), [Pair(0, 1)], 0.003)
    assert found.outcome is Outcome.UNDECIDED and found.p_value == 1
    low, high = found.estimate.interval()
    assert low == -high and high > EQUAL_WIDTH
    assert found.simultaneous == (low, high)


@pytest.mark.parametrize(("metric", "margin"), [("accuracy", "0.3"), ("f1", "0.3"), ("brier", "0.01"), ("auroc", "1")])
def test_compare_does_not_call_groups_equivalent_that_agree_on_65_documents(
    metric: str, margin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["good" if i % 2 else "bad" for i in range(65)]
    predicted = ["bad" if i < 6 else label for i, label in enumerate(labels)]
    rows = [
        {"system": system, "seed": 0, "id": i, "label": label, "prediction": guess}
        | {f"probability_{name}": 0.9 if name == guess else 0.1 for name in ("bad", "good")}
        for system in ("cls", "mean")
        for i, (label, guess) in enumerate(zip(labels, predicted, strict=True))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "heads.csv", index=False)
    assert main([str(tmp_path / "heads.csv"), "--metric", metric, "--margin", margin]) == 0
    (pair,) = json.loads((tmp_path / "heads_comparison" / "comparison.json").read_text())["pairs"]
    assert pair["outcome"] == "undecided" and pair["difference"] == 0
    assert pair["low"] < -EQUAL_WIDTH < EQUAL_WIDTH < pair["high"] and pair["standard_error"] > 0.01
    printed = capsys.readouterr().out
    assert "(0.00 to 0.00)" not in printed and "are equivalent" not in printed


def test_group_that_is_right_on_every_document_has_an_interval(tmp_path: Path) -> None:
    rows = [
        {"system": system, "id": i, "label": i % 2, "prediction": i % 2 if i or system == "all" else 1}
        for system in ("all", "most")
        for i in range(65)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "heads.csv", index=False)
    assert main([str(tmp_path / "heads.csv")]) == 0
    document = json.loads((tmp_path / "heads_comparison" / "comparison.json").read_text())
    accuracy = document["groups"][0]["metrics"]["test/accuracy"]
    assert accuracy["mean"] == accuracy["high"] == 1
    assert accuracy["low"] < 1 - EQUAL_WIDTH, "the exact interval (Clopper and Pearson) starts at 94.5 %"


@pytest.mark.parametrize(("only_first", "only_second"), [(2, 0), (3, 1), (5, 5), (20, 16)])
def test_equivalence_test_agrees_with_tango(only_first: int, only_second: int) -> None:
    """Our variance leaves out terms of order δ². Tango's test uses the normal distribution."""
    estimate = paired(only_first, only_second, 3_000)
    difference = estimate.value + 0.003
    error = (difference - estimate.value) / estimate.variance_if(difference) ** 0.5
    assert error == pytest.approx(-tango(only_first, only_second, 3_000, difference), rel=0.01)
    ours = estimate.p_equivalence(difference)
    assert ours == pytest.approx(special.ndtr(tango(only_first, only_second, 3_000, difference)), rel=0.05)


@pytest.mark.parametrize(
    ("only_first", "only_second", "num_documents"), [(0, 0, 65), (1, 0, 65), (4, 1, 65), (0, 3, 320), (30, 10, 900)]
)
def test_ends_of_the_interval_are_not_rejected_and_values_beyond_are(
    only_first: int, only_second: int, num_documents: int
) -> None:
    estimate = paired(only_first, only_second, num_documents)
    sign = 1 if only_first >= only_second else -1
    low, high = estimate.interval()
    far = high if sign > 0 else -low
    t = special.stdtrit(num_documents - 1, 0.975)

    def statistic(truth: float) -> float:
        return (truth - abs(estimate.value)) / Estimate(
            abs(estimate.value), (), estimate.document_variance, num_documents - 1, estimate.step
        ).variance_if(truth) ** 0.5

    assert statistic(far) == pytest.approx(t)
    assert estimate.p_equivalence(far * 1.05) < 0.025
    assert low < estimate.value < high


@pytest.mark.parametrize(("num_documents", "margin"), [(20, 0.15), (65, 0.05), (320, 0.02), (900, 0.003)])
def test_equivalence_at_the_margin_is_wrong_in_at_most_five_percent_exactly(num_documents: int, margin: float) -> None:
    """Sum the probabilities of all outcomes for which the test rejects, for models that differ in hardly any document.

    A t-test on the observed variance rejects in 12 to 18 % of these cases.
    """
    for other in (0.0, 0.5 / num_documents, 2 / num_documents):
        counts = np.arange(40)
        first, second = np.meshgrid(counts, counts, indexing="ij")
        is_possible = (first + second <= num_documents) & (np.abs(first - second) < margin * num_documents)
        wrong = 0.0
        for b, c in zip(first[is_possible].tolist(), second[is_possible].tolist(), strict=True):
            neither = num_documents - b - c
            log = special.gammaln([num_documents + 1, b + 1, c + 1, neither + 1]) * [1, -1, -1, -1]
            rates = special.xlogy([b, c, neither], [other + margin, other, 1 - 2 * other - margin])
            if (probability := float(np.exp(log.sum() + rates.sum()))) > 1e-7:
                wrong += probability * (paired(b, c, num_documents).p_equivalence(margin) < 0.05)
        assert wrong <= 0.05, other


def test_many_differing_documents_hardly_change_anything() -> None:
    estimate = paired(420, 400, 25_000)
    plain = Estimate(estimate.value, (), estimate.document_variance, estimate.document_df)
    assert estimate.standard_error == pytest.approx((820 - 20**2 / 25_000) ** 0.5 / 25_000, rel=1e-4)
    assert estimate.interval() == pytest.approx(plain.interval(), rel=0.01)
    assert estimate.p_equivalence(0.003) == pytest.approx(plain.p_equivalence(0.003), rel=0.05)


def test_seeds_with_low_degrees_of_freedom_do_not_widen_the_documents_part() -> None:
    """With two seeds, t is large because the seed variance is hardly known. Steps do not widen the interval further."""
    variance = SeedVariance(4e-3, 1, 2)
    plain, stepped = (Estimate(0.02, (variance, variance), 1e-3, 59, step) for step in (0.0, 1 / 60))
    assert stepped.interval() == plain.interval()


def test_predicted_chance_uses_the_same_equivalence_test() -> None:
    """The documents agree completely, so 700 of them cannot show equivalence within 0.3 points, whatever the seeds."""
    variances = (SeedVariance(1e-9, 2, 3), SeedVariance(1e-9, 2, 3))
    for num_documents, can_settle in ((700, False), (3_000, True)):
        step = 1 / num_documents
        chances = chances_to_settle(Estimate(0.0, variances, step**2, num_documents - 1, step), 0.05, 0.003)
        assert (chances[50] > 0.9) == can_settle


def test_clusters_multiply_the_step_by_their_design_effect() -> None:
    films_N = np.repeat(np.arange(20), 5)
    same_in_film_N = (films_N % 4 > 0).astype(float)  # all documents of a film are right, or all are wrong
    (sample,) = accuracies(same_in_film_N[None], clusters_N=films_N)
    assert sample.step == pytest.approx(1 / 20)
    (independent,) = accuracies(same_in_film_N[None])
    assert independent.step == pytest.approx(1 / 100)
    (all_right,) = accuracies(np.ones((1, 100)), clusters_N=films_N)
    assert all_right.step == pytest.approx(1 / 20), "equal outcomes say nothing about the correlation within films"


def test_step_of_macro_f1_is_that_of_accuracy_for_balanced_classes_only() -> None:
    def step(labels: list[int]) -> float:
        labels_N = np.array(labels)
        names = tuple("abc"[: labels_N.max() + 1])
        probabilities = np.eye(len(names))[labels_N]
        return METRICS["f1"].step(Predictions(labels_N, labels_N, labels_N, probabilities, labels_N, None, names))

    assert step([0, 1] * 5) == pytest.approx(1)
    assert step([0, 1, 2] * 5) == pytest.approx(1)
    assert step([0] * 9 + [1]) == pytest.approx((1 / 1.8 + 1 / 0.2) / 2)
    assert METRICS["loss"].step(None) == 0


@pytest.mark.usefixtures("fast")
def test_similar_heads_at_the_margin_are_rarely_called_equivalent() -> None:
    """Without the rules, the equivalence test is wrong in 20 to 40 % of studies with 65 documents."""
    for num_seeds in (1, 3):
        setting = small(num_seeds, 65, behind=(0.0, 0.3), **AGREEMENTS["similar heads"])
        found = small_studies(setting, 0.3, np.random.default_rng([21, num_seeds]), 60).mean(axis=0)
        assert found[1] > 0.1 and found[4] == 0
        assert found[5] >= 0.95
