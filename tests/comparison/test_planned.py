"""Comparisons of studies with a plan, and of studies that grow without one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.studies import HEADS, Head, make_study

from imdbcls.api import compare_runs
from imdbcls.compare import main
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.planned import PlannedStudy, planned_study
from imdbcls.comparison.race import State
from imdbcls.comparison.results import Comparison, PairResult
from imdbcls.comparison.run_files import BadRunError
from imdbcls.comparison.statistics import Sample, Units
from imdbcls.comparison.study import read_study
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.paragraph import paragraph
from imdbcls.comparison.views.terminal import terminal_text
from imdbcls.comparison.views.wording import verdict
from imdbcls.errors import UserError
from imdbcls.runs.plan import Plan, PlannedGroup, read_plan, write_plan
from imdbcls.runs.predictions import Predictions

ACCURACY = METRICS["accuracy"]
CLEAR, CLOSE, POOR = HEADS[1], HEADS[0], HEADS[4]
NUM_SEEDS = 6


def plan_of(heads: tuple[Head, ...], **changes: object) -> Plan:
    groups = tuple(PlannedGroup(name=head.name, group_hash=f"group-{head.name}", overrides=()) for head in heads)
    fields = {"seeds": tuple(range(NUM_SEEDS)), "first_look": 3, "metric": "accuracy", "margin": 0.003}
    return Plan(groups=groups, **{"futility": None, **fields, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study with a plan, in which every head has all planned seeds."""
    heads = (CLEAR, CLOSE, POOR)
    study = make_study(tmp_path_factory.mktemp("planned") / "heads", heads, range(NUM_SEEDS), num_documents=8_000)
    write_plan(study, plan_of(heads))
    return study


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "heads"))


def planned(study: Path) -> PlannedStudy:
    found = read_study(study)
    assert found.plan is not None
    return planned_study(found, found.plan, ACCURACY)


def keep_seeds(study: Path, head: Head, num_seeds: int) -> None:
    for seed in range(num_seeds, NUM_SEEDS):
        shutil.rmtree(study / f"{head.name}-s{seed}")


def pair_of(comparison: Comparison, *heads: Head) -> PairResult:
    (pair,) = [pair for pair in comparison.pairs if {pair.a, pair.b} == {head.name for head in heads}]
    return pair


def test_untrained_seeds_of_a_dropped_group_do_not_matter(study: Path) -> None:
    before = planned(study)
    dropped = before.standings[2]
    assert dropped.state is State.WORSE and dropped.num_seeds is not None and dropped.num_seeds < NUM_SEEDS
    keep_seeds(study, POOR, dropped.num_seeds)
    after = planned(study)
    assert [each.standings for each in after.rounds] == [each.standings for each in before.rounds]
    assert [each.num_seeds for each in after.rounds] == [3, 4, 5, 6]


def test_comparison_uses_the_last_look_at_each_pair(study: Path) -> None:
    standing = planned(study).standings[2]
    comparison = compare_runs(study)
    pair = pair_of(comparison, CLEAR, POOR)
    assert pair.num_seeds == (standing.num_seeds, standing.num_seeds)
    assert pair.look is not None and pair.look.num_seeds == standing.num_seeds and pair.look.max_seeds == NUM_SEEDS
    values = {group.name: np.array(group.primary.values) for group in comparison.groups}
    first = {name: each[: standing.num_seeds].mean() for name, each in values.items()}
    assert pair.difference == pytest.approx(first[pair.a] - first[pair.b])
    other = pair_of(comparison, CLEAR, CLOSE)
    assert other.num_seeds == (NUM_SEEDS, NUM_SEEDS) and other.look is not None and other.look.num_looks == 4
    assert comparison.plan is not None and comparison.plan.is_over and comparison.short_list is None


def test_p_values_and_intervals_hold_for_all_looks(study: Path) -> None:
    for seed in range(NUM_SEEDS):
        shutil.rmtree(study / f"{POOR.name}-s{seed}")
    write_plan(study, plan_of((CLEAR, CLOSE)))
    with_plan = pair_of(compare_runs(study), CLEAR, CLOSE)
    (study / "plan.json").unlink()
    without = pair_of(compare_runs(study), CLEAR, CLOSE)
    assert with_plan.p_value == pytest.approx(without.p_value)
    assert with_plan.p_holm is not None and without.p_holm is not None and with_plan.p_holm > without.p_holm
    assert with_plan.simultaneous_low < without.simultaneous_low
    assert with_plan.simultaneous_high > without.simultaneous_high
    assert without.look is None and without.low == pytest.approx(with_plan.low)


def test_groups_have_their_names_in_the_plan(study: Path) -> None:
    """In a study of tuned heads, names made from the configs would also contain the learning rates."""
    plan = read_plan(study)
    names = [f"{group.name} tuned" for group in plan.groups]
    groups = tuple(group.model_copy(update={"name": name}) for group, name in zip(plan.groups, names, strict=True))
    write_plan(study, plan.model_copy(update={"groups": groups}))
    assert sorted(group.name for group in read_study(study).groups) == sorted(names)


def test_order_of_the_pair_does_not_matter(study: Path) -> None:
    """If the best group comes later in the plan, the signs of the difference and of the interval are reversed."""
    expected = compare_runs(study)
    write_plan(study, plan_of((POOR, CLOSE, CLEAR)))
    found = compare_runs(study)
    assert [(pair.a, pair.b) for pair in found.pairs] == [(pair.a, pair.b) for pair in expected.pairs]
    for pair, same in zip(found.pairs, expected.pairs, strict=True):
        assert pair.outcome == same.outcome and pair.difference == pytest.approx(same.difference)
        assert (pair.simultaneous_low, pair.simultaneous_high) == pytest.approx(
            (same.simultaneous_low, same.simultaneous_high)
        )


def test_texts_name_the_plan(study: Path) -> None:
    comparison = compare_runs(study)
    decided = planned(study).standings[2].num_seeds
    notes = " ".join(comparison.notes)
    assert "The tests follow plan.json: at most 6 seeds per group, and 4 of 4 planned looks were taken." in notes
    assert (
        f"mean: worse than cls after {decided} seeds." in notes
        or f"mean: worse than transformer after {decided}" in notes
    )
    assert "group sequential" in paragraph(comparison) and "each model was tested with 3 to 6 seeds" in paragraph(
        comparison
    )
    undecided = pair_of(comparison, CLEAR, CLOSE)
    assert undecided.outcome is Outcome.UNDECIDED
    assert verdict(undecided, ACCURACY).endswith(
        "all 6 planned seeds are trained: use more test documents in another study"
    )
    assert "corrected for all pairs and all planned looks" in " ".join(terminal_text(comparison).split())


def test_nothing_is_tested_before_the_first_look(study: Path) -> None:
    for head in (CLEAR, CLOSE, POOR):
        keep_seeds(study, head, 2)
    comparison = compare_runs(study)
    assert {pair.outcome for pair in comparison.pairs} == {Outcome.UNTESTED}
    assert comparison.pairs[0].problem == "the first planned look is after 3 seeds per group"
    assert comparison.plan is not None and comparison.plan.looks_done == () and not comparison.plan.is_over


def test_groups_that_are_not_planned_are_not_tested(study: Path) -> None:
    write_plan(study, plan_of((CLEAR, CLOSE)))
    comparison = compare_runs(study)
    assert pair_of(comparison, CLEAR, POOR).problem == "mean is not in plan.json"
    assert pair_of(comparison, CLEAR, CLOSE).problem is None


def test_group_whose_run_failed_leaves_the_others_running(study: Path) -> None:
    keep_seeds(study, CLOSE, 4)
    failed = study / f"{CLOSE.name}-s3" / "result.json"
    failed.write_text(json.dumps(json.loads(failed.read_text()) | {"status": "failed"}))
    found = planned(study)
    assert found.standings[1].state is State.FAILED and found.standings[1].num_seeds == 4
    assert found.rounds[0].inferences.keys() >= {(0, 1), (0, 2), (1, 2)}
    assert all((0, 1) not in each.inferences for each in found.rounds[1:]) and found.is_over
    pair = pair_of(compare_runs(study), CLEAR, CLOSE)
    assert pair.num_seeds == (3, 3) and "a run failed before the look at 4 seeds" in verdict(pair, ACCURACY)


def test_another_metric_is_compared_without_the_plan(study: Path) -> None:
    comparison = compare_runs(study, metric="f1")
    assert comparison.plan is None and comparison.pairs[0].look is None
    assert comparison.notes[0].startswith("plan.json plans a comparison of accuracy with the margin 0.003.")
    assert "exploratory" in comparison.notes[0]
    assert compare_runs(study, margin=1.0).plan is None and compare_runs(study).margin == 0.003


def test_groups_with_different_documents_are_refused(study: Path) -> None:
    for seed in range(NUM_SEEDS):
        result = study / f"{CLOSE.name}-s{seed}" / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"split_hash": "other"}))
    with pytest.raises(BadRunError, match=r"cls and transformer have different documents \(split_hash\)"):
        compare_runs(study)


def test_metric_that_is_not_defined_is_refused(study: Path) -> None:
    """If the metric is NaN, a difference has no variance, and groups would be called different."""

    def undefined(predictions: Predictions) -> tuple[float, np.ndarray]:
        return float("nan"), np.full(len(predictions.true_labels), np.nan)

    found = read_study(study)
    assert found.plan is not None
    with pytest.raises(BadRunError, match="AUROC is not defined for cls: a class has no test documents"):
        planned_study(found, found.plan, replace(METRICS["auroc"], evaluate=undefined))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seeds": [0, 0, 1]}, "a seed is listed twice"),
        ({"first_look": 9}, "first_look=9 is more than the 6 seeds"),
        ({"metric": "speed"}, "metric=speed is not one of accuracy"),
        ({"futility": 2.0}, "at futility"),
        ({"groups": []}, "at groups"),
        ({"format_version": 9}, "newer version"),
        ({"alpha": 0.5}, "at alpha"),
    ],
)
def test_damaged_plan_is_one_sentence(study: Path, change: dict[str, object], reason: str) -> None:
    path = study / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=reason) as error:
        read_plan(study)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert main([str(study)]) == 2


def test_changed_plan_is_described(study: Path) -> None:
    plan = read_plan(study)
    assert plan.difference(plan) is None
    assert plan.difference(plan.model_copy(update={"margin": 0.01})) == "margin is 0.01 instead of 0.003"
    fewer = plan.model_copy(update={"groups": plan.groups[:2], "seeds": plan.seeds[:4]})
    assert plan.difference(fewer) == "without mean; seeds is 4 (0 to 3) instead of 6 (0 to 5)"
    assert fewer.difference(plan) == "also with mean; seeds is 6 (0 to 5) instead of 4 (0 to 3)"


def test_growing_study_counts_its_looks(study: Path, tmp_path: Path) -> None:
    (study / "plan.json").unlink()
    complete = Path(shutil.copytree(study, tmp_path / "all"))

    def looks() -> tuple[list[int], str]:
        assert main([str(study)]) == 0
        content = json.loads((study / "comparison.json").read_text())
        return content["looks"], " ".join(content["notes"])

    for head in (CLEAR, CLOSE, POOR):
        keep_seeds(study, head, 3)
    first, notes = looks()
    assert first == [9] and "growing study" not in notes
    assert looks()[0] == [9]  # comparing the same runs again is not another look
    for head in (CLEAR, CLOSE, POOR):
        shutil.copytree(complete / f"{head.name}-s3", study / f"{head.name}-s3")
    second, notes = looks()
    assert second == [9, 12] and "This growing study was compared 2 times (with 9, 12 runs)." in notes
    (study / "comparison.json").write_text("{}")
    assert looks()[0] == [12]


def test_seeds_of_a_sample_keep_their_collapse_flags() -> None:
    sample = Sample(np.array([0.5, 0.9]), np.zeros((4, 2)), Units(4), np.array([True, False]))
    assert sample.num_collapsed == 1 and sample.seeds(np.array([1])).num_collapsed == 0
    assert replace(sample, collapsed_S=None).num_collapsed == 0
