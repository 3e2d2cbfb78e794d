"""`comparison.json` holds the keys that other tools read, with figures that fit each other."""

import json
from typing import Any

import pytest
from support.studies import HEADS, make_study

from imdbcls.compare import main
from imdbcls.comparison.verdicts import headline, verdict


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = make_study(tmp_path_factory.mktemp("contract") / "heads", HEADS[:3], seeds=[0, 1], num_documents=400)
    assert main([str(study), "--margin", "1"]) == 0
    return json.loads((study / "comparison.json").read_text(encoding="utf-8"))


def test_every_group_has_its_keys(comparison: dict[str, Any]) -> None:
    assert sorted(group["head"] for group in comparison["groups"]) == ["cls", "lstm", "transformer"]
    for group in comparison["groups"]:
        assert isinstance(group["name"], str) and group["seeds"] == [0, 1]
        for metric in ("test/accuracy", "test/f1", "test/auroc", "test/ece", "test/brier", "test/loss"):
            figures = group["metrics"][metric]
            assert figures.keys() >= {"mean", "std", "n", "low", "high"}
            assert figures["low"] <= figures["mean"] <= figures["high"] and figures["n"] == 2 and figures["std"] >= 0
    accuracies = [group["metrics"]["test/accuracy"]["mean"] for group in comparison["groups"]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_every_pair_has_its_keys(comparison: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("seeds_varied", [True, False])
def test_only_several_seeds_make_a_head_better(seeds_varied: bool) -> None:
    """From one training of each, a reader in a hurry must not take the sentence's first words for more than it is."""
    figures = {"difference": 0.02, "low": 0.01, "high": 0.03, "p_holm": 0.001, "p_hierarchical_holm": None}
    flags = {
        "problem": None,
        "significant": True,
        "equivalent": False,
        "underpowered": False,
        "flags": [],
        "minimum_detectable_difference": 0.01 if seeds_varied else None,
    }
    pair = {"a": "lstm", "b": "cls", "seeds_varied": seeds_varied, **figures, **flags}
    claim = "lstm is better than cls"
    assert verdict(pair).startswith(claim if seeds_varied else "lstm scored better, as trained here, than cls")
    assert ("is better than" in headline([pair], ["lstm", "cls"])) == seeds_varied
    assert ("another seed may turn it round" in verdict(pair)) != seeds_varied
