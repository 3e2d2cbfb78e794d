"""`comparison.json` has the keys that other tools read, and its values are consistent."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.compare import main
from imdbcls.comparison.results import PairResult
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
            assert values["low"] <= values["mean"] <= values["high"] and values["n"] == 2 and values["std"] >= 0
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
        assert 0 < pair["p_permutation"] <= pair["p_holm"] <= 1
        assert [test["seed"] for test in pair["mcnemar"]] == [0, 1]
        for test in pair["mcnemar"]:
            assert test.keys() == {"seed", "a_only", "b_only", "p"}
            assert isinstance(test["a_only"], int) and isinstance(test["b_only"], int) and 0 < test["p"] <= 1
        only = [test["a_only"] - test["b_only"] for test in pair["mcnemar"]]
        assert pair["difference"] == pytest.approx(sum(only) / len(only) / 400)
        assert isinstance(pair["equivalent"], bool) and isinstance(pair["verdict"], str)
        assert pair["minimum_detectable_difference"] > 0 and pair["margin"] == 0.01


def test_comparison_json_equals_recorded_document(tmp_path: Path) -> None:
    """All keys, in their order, and all values up to rounding equal those of a document from an earlier version."""
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
        **{"a": "lstm", "b": "cls", "num_seeds": (3, 3), "shared_documents": 1_000, "problem": None, "flags": ()},
        **{"margin": 0.003, "difference": 0.02, "low": 0.01, "high": 0.03, "standard_error": 0.005},
        **{"degrees_of_freedom": 5.0, "p_permutation": 0.001, "p_holm": 0.001, "p_hierarchical": 0.001},
        **{"p_hierarchical_holm": 0.001, "p_equivalence": 0.9, "mcnemar": (), "flips": None},
        **{"minimum_detectable_difference": 0.01, "seeds_needed": None},
    }
    return PairResult(**fields | changes)


ONE_SEED = {"num_seeds": (1, 1), "p_hierarchical_holm": None, "minimum_detectable_difference": None}
UNTESTED = {"problem": "why", "p_holm": None, "p_hierarchical_holm": None, "p_equivalence": None}


@pytest.mark.parametrize(
    ("changes", "outcome", "start"),
    [
        ({}, Outcome.BETTER, "lstm is better than cls by 2.0 ± 1.0 points (p = 0.001 after Holm correction)"),
        ({"difference": -0.02}, Outcome.BETTER, "cls is better than lstm"),
        ({"p_equivalence": 0.01}, Outcome.BETTER, "lstm is better than cls"),
        ({"p_holm": 0.06}, Outcome.UNDECIDED, "undecided: lstm leads cls"),
        ({"p_hierarchical_holm": 0.06}, Outcome.UNDECIDED, "undecided: lstm leads cls"),
        ({"p_holm": 0.06, "p_equivalence": 0.01}, Outcome.EQUIVALENT, "lstm and cls are equivalent within 0.3 points"),
        (
            ONE_SEED,
            Outcome.BETTER_HERE,
            "lstm scored higher than cls by 2.0 ± 1.0 points in these runs (p = 0.001 after Holm",
        ),
        (ONE_SEED | {"p_holm": 0.06}, Outcome.UNDECIDED, "undecided: lstm leads cls by 2.0 ± 1.0 points; train more"),
        (UNTESTED, Outcome.UNTESTED, "lstm and cls are not tested against each other: why"),
    ],
)
def test_verdict_follows_from_p_values(changes: dict[str, Any], outcome: Outcome, start: str) -> None:
    pair = pair_of(**changes)
    assert pair.outcome is outcome and verdict(pair).startswith(start)


@pytest.mark.parametrize("seeds_varied", [True, False])
def test_verdict_is_better_only_with_several_seeds(seeds_varied: bool, tmp_path: Path) -> None:
    """With one seed, the start of the sentence must not claim that one head is better."""
    assert ("another seed may reverse it" in verdict(pair_of(**({} if seeds_varied else ONE_SEED)))) != seeds_varied
    study = make_study(
        tmp_path / "runs", [Head("lstm", 2.0), Head("cls")], [0, 1, 2] if seeds_varied else [0], num_documents=2_000
    )
    assert main([str(study)]) == 0
    answer = json.loads((study / "comparison.json").read_text(encoding="utf-8"))["headline"]
    claim = "It is better than cls" if seeds_varied else "It scored higher than cls in these runs"
    assert claim in answer and ("Train several seeds" in answer) != seeds_varied
