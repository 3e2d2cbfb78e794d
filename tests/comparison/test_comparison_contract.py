"""`comparison.json` has the keys that other tools read, and its values are consistent."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.compare import main
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import PairResult, WithoutCollapsed
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.wording import verdict


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = make_study(tmp_path_factory.mktemp("contract") / "heads", HEADS[:3], seeds=[0, 1], num_documents=400)
    assert main([str(study), "--margin", "1"]) == 0
    return json.loads((study / "comparison.json").read_text(encoding="utf-8"))


def test_groups_have_all_keys_and_consistent_values(comparison: dict[str, Any]) -> None:
    assert sorted(group["head"] for group in comparison["groups"]) == ["cls", "lstm", "transformer"]
    for group in comparison["groups"]:
        assert isinstance(group["name"], str) and group["seeds"] == [0, 1]
        for metric in ("test/accuracy", "test/f1", "test/auroc", "test/ece", "test/brier", "test/loss"):
            values = group["metrics"][metric]
            assert values.keys() >= {"mean", "std", "n", "low", "high"}
            assert values["n"] == 2 and values["std"] >= 0 and len(values["values"]) == 2
            if metric == "test/ece":
                assert values["low"] is values["high"] is None, "an interval around a plug-in ECE would be wrong"
            else:
                assert values["low"] <= values["mean"] <= values["high"]
        assert group["ensemble"].keys() == comparison["baseline"].keys()
        calibration = group["calibration"]
        assert calibration.keys() == {"ece", "expected", "p", "temperatures", "ece_calibrated"}
        sharpness = {head.name: head.sharpness for head in HEADS}[group["head"]]
        assert calibration["temperatures"] == [sharpness / 2] * 2 and 0 <= calibration["ece_calibrated"] < 0.2
        assert group["num_collapsed"] == 0
        assert group["largest_collapse_rate"] == pytest.approx(1 - 0.05**0.5)
    accuracies = [group["metrics"]["test/accuracy"]["mean"] for group in comparison["groups"]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_pairs_have_all_keys_and_consistent_values(comparison: dict[str, Any]) -> None:
    names = [group["name"] for group in comparison["groups"]]
    accuracy = {group["name"]: group["metrics"]["test/accuracy"]["mean"] for group in comparison["groups"]}
    pairs = comparison["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [(names[0], names[1]), (names[0], names[2]), tuple(names[1:])]
    for pair in pairs:
        assert pair["difference"] == pytest.approx(accuracy[pair["a"]] - accuracy[pair["b"]])
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert 0 < pair["p_value"] <= pair["p_holm"] <= 1 and 0 < pair["p_permutation"] <= 1
        assert pair["simultaneous_low"] < pair["low"] <= pair["high"] < pair["simultaneous_high"]
        assert pair["p_equivalence"] <= pair["p_equivalence_holm"] and pair["outcome"] in list(Outcome)
        assert [test["seed"] for test in pair["mcnemar"]] == [0, 1]
        for test in pair["mcnemar"]:
            assert test.keys() == {"seed", "a_only", "b_only", "p"}
            assert isinstance(test["a_only"], int) and isinstance(test["b_only"], int) and 0 < test["p"] <= 1
        only = [test["a_only"] - test["b_only"] for test in pair["mcnemar"]]
        assert pair["difference"] == pytest.approx(sum(only) / len(only) / 400)
        assert isinstance(pair["equivalent"], bool) and isinstance(pair["verdict"], str)
        assert pair["minimum_detectable_difference"] > 0 and pair["margin"] == 0.01


def test_comparison_json_equals_recorded_document(tmp_path: Path) -> None:
    """Compare with a document from an earlier version: all keys and their order, and all values up to rounding."""
    study = make_study(tmp_path / "heads", HEADS[1:3], seeds=[0, 1], num_documents=60, documents_of_a_film=2)
    assert main([str(study), "--margin", "1"]) == 0
    written = json.loads((study / "comparison.json").read_text(encoding="utf-8"))
    recorded = json.loads(Path(__file__).with_name("comparison.json").read_text(encoding="utf-8"))
    assert_alike(written, recorded, "comparison")


def assert_alike(found: Any, expected: Any, place: str) -> None:
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_alike(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, value in enumerate(expected):
            assert_alike(found[i], value, f"{place}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9), place
    else:
        assert found == expected, place


def pair_of(**changes: Any) -> PairResult:
    """Return a pair of groups that differ by 2 points, with three seeds each."""
    fields: dict[str, Any] = {
        **{"a": "lstm", "b": "cls", "higher_is_better": True, "num_seeds": (3, 3), "num_collapsed": (0, 0)},
        **{"shared_documents": 1_000, "problem": None, "flags": (), "margin": 0.003},
        **{"difference": 0.02, "low": 0.012, "high": 0.028, "simultaneous_low": 0.01, "simultaneous_high": 0.03},
        **{"standard_error": 0.005, "degrees_of_freedom": 5.0, "p_value": 0.001, "p_holm": 0.001},
        **{"p_equivalence": 0.9, "p_equivalence_holm": 0.9, "outcome": Outcome.BETTER, "missing_seeds": (0, 0)},
        **{"without_collapsed": None, "p_permutation": 0.001, "mcnemar": (), "flips": None},
        **{"minimum_detectable_difference": 0.01, "seeds_needed": None, "chance_to_settle": 0.31},
    }
    return PairResult(**fields | changes)


ONE_SEED = {"num_seeds": (1, 1), "minimum_detectable_difference": None, "chance_to_settle": None}
HERE = ONE_SEED | {"outcome": Outcome.BETTER_HERE}
UNDECIDED = {"outcome": Outcome.UNDECIDED, "p_holm": 0.06}
REST = WithoutCollapsed((3, 2), 0.01, -0.005, 0.025, 0.2, Outcome.UNDECIDED)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "lstm is better than cls by 2.00 points (1.00 to 3.00; p = 0.001)"),
        (
            {"difference": -0.02, "simultaneous_low": -0.03, "simultaneous_high": -0.01},
            "cls is better than lstm by 2.00 points (1.00 to 3.00; p = 0.001)",
        ),
        (
            {"p_equivalence_holm": 0.01},
            "lstm is better than cls by 2.00 points (1.00 to 3.00; p = 0.001); the difference is significant, but "
            "smaller than the margin of 0.3 points",
        ),
        (
            {"outcome": Outcome.EQUIVALENT, "p_equivalence_holm": 0.01},
            "lstm and cls are equivalent within 0.3 points",
        ),
        (
            UNDECIDED | {"seeds_needed": 8, "chance_to_settle": 0.83},
            "undecided: lstm leads cls by 2.00 points (1.00 to 3.00); with 8 seeds per group, the probability of "
            "a verdict is 83 %",
        ),
        (
            UNDECIDED,
            "undecided: lstm leads cls by 2.00 points (1.00 to 3.00); even with 50 seeds per group, the probability "
            "of a verdict is 31 %: use more test documents, or a larger margin",
        ),
        (
            UNDECIDED | {"margin": None},
            "undecided: lstm leads cls by 2.00 points (1.00 to 3.00); even with 50 seeds per group, the probability "
            "of a verdict is 31 %: use more test documents",
        ),
        (
            UNDECIDED | {"num_seeds": (5, 2), "missing_seeds": (0, 1)},
            "undecided: lstm leads cls by 2.00 points (1.00 to 3.00); cls has only two seeds, and the other "
            "group has more, so neither can be called better: train another seed of cls",
        ),
        (
            HERE,
            "lstm scored better than cls in these runs by 2.00 points (1.00 to 3.00; p = 0.001) (a group has one "
            "seed, so the verdict holds only for these trained models; another seed may reverse it)",
        ),
        (
            UNDECIDED | {"num_collapsed": (0, 1), "without_collapsed": REST, "seeds_needed": 8},
            "undecided: lstm leads cls by 2.00 points (1.00 to 3.00); with 8 seeds per group, the probability of a "
            "verdict is 31 %. Collapsed to one class: cls in 1 of 3 seeds. Without these seeds, lstm leads cls by "
            "1.00 points (-0.50 to 2.50), which is not significant",
        ),
        (
            {"problem": "why", "outcome": Outcome.UNTESTED, "p_holm": None},
            "lstm and cls are not tested against each other: why",
        ),
    ],
)
def test_verdict_describes_the_outcome(changes: dict[str, Any], sentence: str) -> None:
    assert verdict(pair_of(**changes), METRICS["accuracy"]) == sentence


def test_verdict_uses_the_unit_and_direction_of_the_metric() -> None:
    values = {"difference": -0.02, "simultaneous_low": -0.03, "simultaneous_high": -0.01, "margin": None}
    pair = pair_of(higher_is_better=False, p_equivalence_holm=None, **values)
    assert verdict(pair, METRICS["loss"]) == "lstm is better than cls by 0.0200 (0.0100 to 0.0300; p = 0.001)"
    assert pair.leader == "lstm" and pair.equivalent is None and pair.underpowered is None


@pytest.mark.parametrize("seeds_varied", [True, False])
def test_verdict_is_better_only_with_several_seeds(seeds_varied: bool, tmp_path: Path) -> None:
    """With one seed, the start of the sentence must not claim that one head is better."""
    assert (
        "another seed may reverse it" in verdict(pair_of(**({} if seeds_varied else HERE)), METRICS["accuracy"])
    ) != seeds_varied
    study = make_study(
        tmp_path / "runs", [Head("lstm", 2.0), Head("cls")], [0, 1, 2] if seeds_varied else [0], num_documents=2_000
    )
    assert main([str(study)]) == 0
    answer = json.loads((study / "comparison.json").read_text(encoding="utf-8"))["headline"]
    claim = "It is better than cls" if seeds_varied else "It scored better than cls in these runs"
    assert claim in answer and ("Train several seeds" in answer) != seeds_varied
