"""The terminal output: a summary that fits on a screen of 80 columns, and everything with --full."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.studies import HEADS, Head, make_study
from support.terminals import on_terminal

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.verdicts import Outcome
from imdbcls.comparison.views.advice import advice
from imdbcls.comparison.views.markdown import markdown_text
from imdbcls.comparison.views.paragraph import paragraph
from imdbcls.comparison.views.terminal import terminal_summary, terminal_text
from imdbcls.comparison.views.wording import headline

FOLDER = Path("runs/heads")


def compared(study: Path, metric: str = "accuracy", margin: float | None = 0.003) -> Comparison:
    return compare_study(read_study(study), METRICS[metric], margin)


def width_of(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("terminal") / "heads", (*HEADS[1:3], HEADS[4]), num_documents=2_000)


def test_summary_of_three_heads_fits_on_a_screen(study: Path) -> None:
    comparison = compared(study)
    text = terminal_summary(comparison, FOLDER, 80)
    lines = text.splitlines()
    assert width_of(text) <= 80 and len(lines) <= 22
    assert lines[0].startswith("heads: 3 groups, 9 runs, 2,000 test documents.")
    assert lines[1].startswith(f"{comparison.groups[0].name} has the highest accuracy.")
    assert "   group          accuracy %   95 % interval  seeds" in lines
    for group in comparison.groups:
        (row,) = [line for line in lines if line.startswith(f"{group.rank}  {group.name} ")]
        assert row.split()[2:] == [
            f"{100 * group.primary.mean:.2f}",
            f"{100 * group.primary.low:.2f}",
            "to",
            f"{100 * group.primary.high:.2f}",
            "3",
        ]
    verdicts = [line for line in lines if re.match(r"(better|equivalent|undecided)  ", line)]
    assert [line.split()[0] for line in verdicts] == [pair.outcome for pair in comparison.pairs]
    assert {"better", "undecided"} <= {line.split()[0] for line in verdicts}
    assert "For differences, they hold for all 3 pairs together." in text.replace("\n", " ")
    assert lines[-1] == "runs/heads/comparison.html"
    for ending in ("--full", ".md", ".tex", ".json", ".csv", "comparison_pairs.csv"):
        assert ending in lines[-2]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_fits_and_is_named(metric: str, study: Path) -> None:
    comparison = compared(study, metric, margin=None)
    summary, everything = terminal_summary(comparison, FOLDER, 80), terminal_text(comparison, 80)
    assert width_of(summary) <= 80 and width_of(everything) <= 80
    extreme = "lowest" if metric in ("loss", "brier") else "highest"
    assert f"has the {extreme} {METRICS[metric].title}" in summary
    assert ("points" in summary) == METRICS[metric].is_percentage
    assert "equivalent" not in summary.lower()
    leads = re.findall(r"leads \S+ by (-?[\d.]+)", summary)
    assert len(leads) == 3 and all(float(lead) >= 0 for lead in leads), "a lead is never negative"


def test_temperature_that_raises_the_ece_is_named(study: Path) -> None:
    comparison = compared(study)

    def text_with(*factors: float) -> str:
        """Return the terminal output for groups whose temperatures multiply their ECEs by these factors."""
        groups = []
        for group, factor in zip(comparison.groups, factors, strict=True):
            assert group.calibration is not None
            values = tuple(factor * value for value in group.calibration.values)
            groups.append(replace(group, calibration=replace(group.calibration, calibrated_values=values)))
        return " ".join(terminal_text(replace(comparison, groups=tuple(groups)), 80).split())

    first = comparison.groups[0].name
    assert "The temperature raises" not in text_with(0.5, 1.0, 0.9)
    text = text_with(2.0, 1.0, 0.5)
    assert f"The temperature raises the ECE of {first} on test: it was fitted on the validation split" in text
    assert "predict --uncalibrated does not use the temperature." in text


def test_everything_is_in_full_text_at_any_width(study: Path) -> None:
    comparison = compared(study)
    narrow, wide = terminal_text(comparison, 80), terminal_text(comparison)
    assert "Not shown, because the terminal is too narrow: validation accuracy %" in narrow.replace("\n", " ")
    narrowest = " ".join(terminal_text(comparison, 60).split())
    assert "too narrow: documents/s, ms p95, memory MB and Pareto front. A wider terminal and" in narrowest
    assert "too narrow: 95 % interval and temperature. A wider terminal and comparison.html show all" in narrowest
    assert "too narrow" not in wide and "validation accuracy %" in wide and width_of(wide) > 100
    for text in (narrow, wide):
        for part in (
            "Which group is best?",
            "Which differences",
            "Verdicts",
            "What does each group cost?",
            "For a paper",
        ):
            assert part in text
        for pair in comparison.pairs:
            assert f"{100 * pair.difference:+.2f}" in text


def test_wider_terminal_shows_more_columns(study: Path) -> None:
    comparison = compared(study)
    assert "ensemble" not in terminal_summary(comparison, FOLDER, 80)
    assert "ensemble" in terminal_summary(comparison, FOLDER, 100)
    assert width_of(terminal_summary(comparison, FOLDER, 100)) <= 100
    assert width_of(terminal_summary(comparison, FOLDER, 60).rsplit("\n", 2)[0]) <= 60


def test_one_seed_is_not_a_general_claim(tmp_path: Path) -> None:
    study = make_study(tmp_path / "one", [Head("a", 2.0), Head("b")], seeds=[0], num_documents=1_000)
    comparison = compared(study)
    text = terminal_summary(comparison, FOLDER, 80).replace("\n", " ")
    assert comparison.pairs[0].outcome is Outcome.BETTER_HERE
    assert "better here  a leads b by " in text
    assert "Better here: these trained models differ; other seeds may reverse the order." in text
    assert "95 % intervals are over documents only." in text and "80 % of studies" not in text


def test_equal_groups_do_not_lead(tmp_path: Path) -> None:
    study = make_study(tmp_path / "two", [Head("a"), Head("b")], seeds=[0, 1], num_documents=200)
    comparison = compared(study)
    pair = replace(comparison.pairs[0], difference=0.0, simultaneous_low=-0.01, simultaneous_high=0.01)
    text = terminal_summary(replace(comparison, pairs=(pair,)), FOLDER, 80)
    assert "(within 0.3 points)" in text
    wider = replace(comparison, pairs=tuple(replace(each, margin=0.01) for each in comparison.pairs), margin=0.01)
    assert "(within 1 point)" in terminal_summary(wider, FOLDER, 80).replace("\n", " ")
    assert f"undecided    {pair.a} and {pair.b} have the same accuracy (-1.00 to 1.00)" in text and "leads" not in text


def test_headline_agrees_with_itself_if_only_the_joint_test_rules_a_group_out(tmp_path: Path) -> None:
    """A pair can be undecided although the short list leaves out one of its groups."""
    study = make_study(tmp_path / "three", [Head("a", 0.6), Head("b", 0.5), Head("c")], seeds=[0, 1, 2])
    comparison = compared(study)
    best, *others = [group.name for group in comparison.groups]
    undecided = tuple(replace(pair, outcome=Outcome.UNDECIDED) for pair in comparison.pairs)
    text = headline(replace(comparison, pairs=undecided, short_list=(best, others[0])))
    joint, pairwise = f"{others[1]} is not the best", f"the pairwise test of {best} and {others[1]} is not significant"
    assert f"better than {others[1]}: a joint test shows with 95 % confidence that {joint}, but {pairwise}. " in text
    assert f"cannot be distinguished from {others[0]} with" in text and f"from {others[0]} and" not in text
    assert "ruled out" not in text


def test_tie_has_no_best_group(tmp_path: Path) -> None:
    study = make_study(tmp_path / "tie", [Head("a", quirk=0), Head("b", quirk=0)], seeds=[0], num_documents=65)
    shutil.copytree(study / "a-s0" / "predictions", study / "b-s0" / "predictions", dirs_exist_ok=True)
    comparison = compared(study)
    text = headline(comparison)
    assert text.startswith("a has the same accuracy as b on the test documents. It cannot be distinguished from b")
    assert [group.rank for group in comparison.groups] == [1, 1]
    assert "a shares the highest accuracy with b, " in paragraph(comparison)
    assert "undecided    a and b have the same accuracy" in terminal_summary(comparison, FOLDER, 80)


def test_undecided_pair_says_which_group_needs_a_seed(tmp_path: Path) -> None:
    study = make_study(tmp_path / "two", [Head("a", 1.5), Head("b")], seeds=[0, 1, 2], num_documents=500)
    shutil.rmtree(study / "b-s2")
    comparison = compared(study)
    text = " ".join(terminal_summary(comparison, FOLDER, 110).split())
    assert "; b has two seeds and needs a third" in text
    sentence, *_ = advice(comparison)
    assert sentence.startswith("Train a third seed of b:") and sentence[:40] in text
    assert sentence in markdown_text(comparison)


def test_advice_asks_for_seeds_before_documents(tmp_path: Path) -> None:
    """With two seeds of very different results, the interval is wide because of the seeds, not the documents."""
    heads = [Head("a", 0.6, seed_spread=0.8), Head("b", 0.5, seed_spread=0.8)]
    comparison = compared(make_study(tmp_path / "two", heads, seeds=[0, 1], num_documents=2_000))
    (pair,) = comparison.pairs
    assert pair.outcome is Outcome.UNDECIDED and pair.seeds_needed is None
    (sentence,) = advice(comparison)
    assert sentence.endswith(", first train at least 5 seeds per group.")
    assert sentence in " ".join(terminal_summary(comparison, FOLDER, 80).split())
    assert "train at least 5 per group" in markdown_text(comparison)


def test_few_documents_are_named_on_the_line_of_the_verdict(tmp_path: Path) -> None:
    comparison = compared(make_study(tmp_path / "few", HEADS[:2], num_documents=20))
    assert "; only 20 documents" in " ".join(terminal_summary(comparison, FOLDER, 80).split())
    assert "; only 20 documents" in markdown_text(comparison)


def test_heads_below_the_largest_class_have_no_winner(study: Path) -> None:
    comparison = compared(study)
    comparison = replace(comparison, baseline={**comparison.baseline, "test/accuracy": 1.0})
    text = " ".join(terminal_summary(comparison, FOLDER, 80).split())
    assert headline(comparison).startswith("No group has a higher accuracy than predicting the most frequent class.")
    assert "has the highest accuracy" not in text and "more test documents" not in text
    assert advice(comparison) == ["Train longer, or raise the learning rate (lr)."]


def test_many_groups_and_long_names(tmp_path: Path) -> None:
    """30 groups have 435 pairs. Rows and sentences stay within the width, and counts say what is left out."""
    heads = [Head(f"h{i:02d}-{'学习率' * 4}-{'x' * 20}", skill=i / 30) for i in range(30)]
    study = make_study(tmp_path / "many", heads, seeds=[0, 1], num_documents=120)
    comparison = compared(study)
    everything = terminal_text(comparison, 80)
    assert width_of(everything) <= 80
    for width in (60, 80, 110):
        summary = terminal_summary(comparison, FOLDER, width)
        assert width_of(summary.replace("comparison_pairs.csv", "")) <= width
        assert "and 20 more groups (see --full)" in summary and "and 429 more pairs (see --full)" in summary
        assert len(summary.splitlines()) < 75
    for group in comparison.groups:
        assert group.name[:4] in everything


def test_long_notes_are_counted(study: Path) -> None:
    comparison = replace(compared(study), notes=("a short note.", "word " * 60, "another."))
    assert "\n\n- a short note.\nand 2 more notes (see --full)\n\n" in terminal_summary(comparison, FOLDER, 80)
    comparison = replace(comparison, notes=("word " * 60,))
    assert "\n\n1 note (see --full)\n\n" in terminal_summary(comparison, FOLDER, 80)
    assert terminal_text(comparison, 80).count("word") == 60


def test_verdicts_are_coloured_on_a_terminal_only(study: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imdbcls.compare", str(study), "--output", str(tmp_path)]
    output = on_terminal(command, 80)
    assert re.search(r"\x1b\[[0-9;]*32mbetter\x1b\[[0-9;]*m  ", output) and "\x1b[33mundecided\x1b" in output
    assert "\x1b" not in on_terminal(command, 80, NO_COLOR="1")
    assert "\x1b" not in on_terminal(["sh", "-c", f"{shlex.join(command)} 2>/dev/null | cat"], 80)
