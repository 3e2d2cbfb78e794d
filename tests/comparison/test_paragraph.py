"""The paragraph for a paper: methods, effects, power and limits, in correct English for every kind of study."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.compare import main
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.paragraph import paragraph, units


def compared(study: Path, metric: str = "accuracy", margin: float | None = 0.003) -> Comparison:
    return compare_study(read_study(study), METRICS[metric], margin)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heads = (*HEADS[1:3], HEADS[4])
    return make_study(tmp_path_factory.mktemp("paragraph") / "heads", heads, num_documents=2_000, documents_of_a_film=4)


def test_paragraph_names_design_tests_corrections_and_effects(study: Path) -> None:
    comparison = compared(study)
    text = paragraph(comparison)
    first, *others = comparison.groups
    names = f"{first.name}, {others[0].name} and {others[1].name}"
    for part in (
        f"We compare 3 models, {names} (encoder: minilm), each trained with 3 seeds, on 2,000 test documents (500 ",
        "For each of the 3 pairs of models, we test the difference in accuracy at a level of 5 % with a t-test that",
        "(Obuchowski and Rockette, 1995)",
        "are treated as one unit",
        "corrected for the 3 pairs with Holm's method",
        "hold, with 95 % confidence, for all pairs together (Bonferroni)",
        "differ by less than 0.3 points",
        f"{first.name} has the highest accuracy, {100 * first.primary.mean:.2f} % (95 % confidence interval "
        f"{100 * first.primary.low:.2f} to {100 * first.primary.high:.2f}); predicting the most frequent class gives ",
        "with a power of 80 % is ",
        "(Hsu, 1996)",
    ):
        assert part in text, part
    for pair in comparison.pairs[:2]:
        assert (
            f"{pair.b} (difference {100 * pair.difference:.2f} points, 95 % interval "
            f"{100 * pair.simultaneous_low:.2f} to {100 * pair.simultaneous_high:.2f}, p "
        ) in text
    assert f"{first.name} is significantly better than mean (" in text
    assert re.search(r"The other pair, \w+ and \w+, (differs significantly|remains undecided)\.", text)


@pytest.mark.parametrize(
    ("plural", "singular"), [("films", "film"), ("values of customer", "value of customer"), (None, None)]
)
def test_paragraph_names_one_cluster(plural: str | None, singular: str | None, study: Path) -> None:
    comparison = compared(study)
    names = () if plural is None else (plural,)
    text = units(replace(comparison, facts={**comparison.facts, "test_clusters": (500,), "cluster_name": names}))
    together = "related documents" if singular is None else f"the documents of one {singular}"
    assert text == f"; {together} are treated as one unit"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_its_direction_and_unit(metric: str, study: Path) -> None:
    text = paragraph(compared(study, metric, margin=None))
    title, is_loss = METRICS[metric].title, metric in ("loss", "brier")
    assert f"has the {'lowest' if is_loss else 'highest'} {title}, " in text
    assert f"test the difference in {title} at" in text and "We do not test for equivalence." in text
    assert ("points" in text) != is_loss
    assert ("infinitesimal jackknife" in text) == (metric in ("f1", "auroc"))
    better = re.search(r"significantly better than .*?\(difference (-?)[\d.]+", text)
    assert better is not None and (better[1] == "-") == is_loss, "the difference has the sign of the metric"
    needs_probabilities = metric in ("auroc", "brier", "loss")
    assert f"predicting the {'class frequencies' if needs_probabilities else 'most frequent class'} gives" in text


def test_one_pair_is_not_corrected(tmp_path: Path) -> None:
    text = paragraph(compared(make_study(tmp_path / "two", HEADS[1:3], seeds=[0, 1], num_documents=100)))
    assert "We test the difference" in text and "each trained with 2 seeds" in text
    for word in ("pairs", "Holm", "Bonferroni", "Hsu", "other pair", "one unit", "mean over the models"):
        assert word not in text, word


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_one_seed(metric: str, tmp_path: Path) -> None:
    study = make_study(tmp_path / "one", [Head("a", 2.0), Head("b")], seeds=[0], num_documents=1_000)
    text = paragraph(compared(study, metric, None))
    assert "each trained once, on" in text
    assert f"with {'an exact permutation test' if metric == 'accuracy' else 'a t-test'} over documents." in text
    assert "Without further seeds, the results hold only for these trained models." in text
    assert "power" not in text and "variance between seeds" not in text and "1 seeds" not in text


def test_groups_with_different_numbers_of_seeds(tmp_path: Path) -> None:
    study = make_study(tmp_path / "mixed", [Head("a", 0.5)], seeds=[0, 1, 2], num_documents=400)
    make_study(study, [Head("b")], seeds=[0], num_documents=400)
    make_study(study, [Head("c")], seeds=[0, 1], num_documents=400)
    text = paragraph(compared(study))
    assert "each trained with 1 to 3 seeds" in text
    assert "or with an exact permutation test over documents if one of the two models has a single seed" in text
    assert "the results hold only for the trained model of b." in text
    assert "For the pair of a model with two seeds and a model with more, no difference is called significant." in text


def test_one_group(tmp_path: Path) -> None:
    comparison = compared(make_study(tmp_path / "single", HEADS[:1], seeds=[0, 1], num_documents=100))
    text = paragraph(comparison)
    assert text.startswith(
        "We evaluate transformer (encoder: minilm), trained with 2 seeds, on 100 test documents. The "
    )
    assert "test the difference" not in text and "highest" not in text


def test_verdicts_are_counted_and_named_by_kind(study: Path) -> None:
    comparison = compared(study)
    first, second, third = comparison.pairs
    pairs = (
        replace(first, outcome=Outcome.EQUIVALENT, p_equivalence_holm=0.012),
        replace(second, problem="their labels differ", outcome=Outcome.UNTESTED),
        replace(third, outcome=Outcome.EQUIVALENT, flags=("1 of 4 runs of lstm failed",)),
    )
    text = paragraph(replace(comparison, pairs=pairs, short_list=None))
    assert f"{first.a} is equivalent to {first.b} (difference" in text and "TOST p = 0.012" in text
    assert f"The other pair, {third.a} and {third.b}, is equivalent." in text
    assert "1 of the 3 pairs is not tested, because their labels differ." in text
    assert "Note: 1 of 4 runs of lstm failed." in text


def test_a_group_with_many_others_lists_only_some(tmp_path: Path) -> None:
    heads = [Head(f"h{i:02d}", skill=i / 30) for i in range(30)]
    text = paragraph(compared(make_study(tmp_path / "many", heads, seeds=[0, 1], num_documents=120)))
    assert "and 19 others (encoder: minilm)" in text and "or 24 others." in text
    assert "Of the other 406 pairs, " in text and len(text) < 2_500


def test_paragraph_is_in_markdown_and_json(study: Path, tmp_path: Path) -> None:
    assert main([str(study), "--output", str(tmp_path)]) == 0
    text = paragraph(compared(study))
    assert json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["paragraph"] == text
    markdown = html.unescape((tmp_path / "comparison.md").read_text(encoding="utf-8").replace("\\", ""))
    assert f"## For a paper\n\n{text}\n" in markdown
