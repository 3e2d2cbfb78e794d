"""The expected value of the best of n trials, the leader for each budget, and the page of a tuning study."""

import csv
import itertools
import statistics
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from imdbcls.comparison.expected_maximum import expected_best
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.tuning_results import MostCommonClass, TrialResult, TuningResults, group_results
from imdbcls.comparison.views.tuning_files import tuning_csv, tuning_document
from imdbcls.comparison.views.tuning_page import tuning_html
from imdbcls.comparison.views.tuning_text import tuning_text

VALUES = (0.7, 0.9, 0.8, 0.9, 0.5)


def trial(
    number: int, value: float | None, seconds: float = 36.0, state: str = "", only_class: str | None = None
) -> TrialResult:
    state = state or ("failed" if value is None else "done")
    return TrialResult(number, state, {"lr": 10.0**-number}, value, seconds, 3, f"run{number}", only_class)


def results(*groups: tuple[str, list[TrialResult]], metric: str = "accuracy", sampler: str = "random") -> TuningResults:
    space = {"lr": {"interval": [1e-5, 1e-3], "log": True}}
    settings = {"pruner": "median", "sampler": sampler, "sampler_seed": 0, "metric": metric, "space": space}
    settings["budget"] = {"trials": 5, "hours": None}
    named = [(name, (f"head={name}",), tuple(found)) for name, found in groups]
    return TuningResults("heads", METRICS[metric], settings, group_results(named, METRICS[metric]))


@pytest.mark.parametrize("higher", [True, False])
def test_expectation_equals_the_mean_over_all_samples_with_replacement(higher: bool) -> None:
    best = max if higher else min
    found = expected_best(VALUES, higher)
    assert len(found) == len(VALUES)
    for n, each in enumerate(found, start=1):
        samples = [best(sample) for sample in itertools.product(VALUES, repeat=n)]
        assert each.value == pytest.approx(statistics.fmean(samples))
        assert each.std == pytest.approx(statistics.pstdev(samples))


def test_expectation_is_monotone_and_between_the_mean_and_the_best() -> None:
    means = [each.value for each in expected_best(np.random.default_rng(0).normal(size=30))]
    assert means == sorted(means)
    assert expected_best(VALUES)[0].value == pytest.approx(statistics.fmean(VALUES))
    assert expected_best(VALUES)[-1].value < max(VALUES)
    assert expected_best([]) == () and expected_best([0.5])[0].std == 0


def test_failed_trials_count_as_the_worst_trial_and_open_trials_do_not_count() -> None:
    found = results(("a", [trial(1, 0.8), trial(2, None)]), ("b", [trial(1, 0.6), trial(2, 0.7, state="open")]))
    a, b = found.groups
    assert [round(each.value, 6) for each in a.expected] == [0.7, round(expected_best([0.8, 0.6])[1].value, 6)]
    assert len(b.expected) == 1 and b.count("open") == 1 and a.count("failed") == 1
    assert a.best is not None and a.best.number == 1


def test_a_pruned_trial_is_never_the_best_one() -> None:
    (group,) = results(("a", [trial(1, 0.9, state="pruned"), trial(2, 0.8), trial(3, 0.8)])).groups
    assert group.best is not None and group.best.number == 2


def test_the_leader_depends_on_the_budget() -> None:
    """Group a is reliable; b is usually worse and takes twice as long, but its best trial is better."""
    a = [trial(n, value) for n, value in enumerate((0.80, 0.81, 0.80, 0.81), start=1)]
    b = [trial(n, value, seconds=72.0) for n, value in enumerate((0.6, 0.95, 0.6, 0.6), start=1)]
    found = results(("a", a), ("b", b))
    assert [(lead.group, lead.start, lead.end) for lead in found.leads_by_trials] == [("a", 1, 3), ("b", 4, 4)]
    assert [lead.group for lead in found.leads_by_hours] == ["a"]
    assert found.leads_by_hours[0].start == pytest.approx(0.02) and found.leads_by_hours[0].end == pytest.approx(0.04)


def test_no_group_leads_if_the_best_expectations_are_equal() -> None:
    tied = [trial(1, 0.1774), trial(2, 0.1774)]
    found = results(("a", tied), ("b", [*tied, trial(3, 0.1774)]))
    text = " ".join(tuning_text(found).split())
    assert "by number of trials: no group leads for 1 to 2 trials." in text and "by time: no group leads for" in text
    assert [lead["group"] for lead in tuning_document(found)["leads_by_trials"]] == [None]
    found = results(("a", tied), ("b", [trial(1, 0.1774), trial(2, 0.3)]))
    assert [lead.group for lead in found.leads_by_trials] == ["b"]


def test_lower_is_better_for_the_loss() -> None:
    found = results(("a", [trial(1, 0.3)]), ("b", [trial(1, 0.2)]), metric="loss")
    assert [lead.group for lead in found.leads_by_trials] == ["b"]


def test_the_text_and_the_page_show_budgets_and_pruned_trials() -> None:
    found = results(
        ("a", [trial(1, 0.8), trial(2, 0.6, state="pruned"), trial(3, None)]), ("b", [trial(1, 0.7)]), sampler="tpe"
    )
    text, page = tuning_text(found), tuning_html(found)
    row = next(line for line in text.splitlines() if line.startswith("a "))
    assert row.split()[:5] == ["a", "3", "1", "1", "1"]
    for words in ("is too optimistic", "The budgets are not equal yet", "A pruned trial counts", "sampler=tpe"):
        assert words in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "lr: 1e-05 to 0.001, log" in page and "<script" not in page and page.count('class="figure') == 2
    content = tuning_document(found)
    assert content["groups"][0]["num_pruned"] == 1 and content["groups"][0]["expected"][2]["trials"] == 3


def test_the_summary_says_that_a_lead_is_no_verdict_and_names_the_accuracy_of_guessing() -> None:
    found = results(("a", [trial(1, 0.8)]), ("b", [trial(1, 0.7)]))
    found = replace(found, most_common_class=MostCommonClass("neg", 0.625))
    for text in (" ".join(tuning_text(found).split()), unescape(tuning_html(found))):
        assert "On validation, by number of trials: a leads for 1 trial." in text
        assert "A lead on validation does not show that a group is better." in text
        assert "Always predicting 'neg' gives 62.50% validation accuracy." in text
        assert "one class" not in text
    assert "A lead on validation" not in tuning_text(results(("a", [trial(1, 0.8)])))


def test_the_summary_names_trials_that_predict_one_class() -> None:
    a = [trial(1, 0.5, only_class="neg"), trial(2, 0.5, only_class="pos"), trial(3, 0.4)]
    found = results(("a", a), ("b", [trial(1, 0.7), trial(2, 0.5, only_class="neg")]))
    for text in (" ".join(tuning_text(found).split()), unescape(tuning_html(found))):
        assert "a: 2 of 3 trials predict one class for all validation documents, including the best trial." in text
        assert "b: 1 of 2 trials predicts one class for all validation documents." in text
        assert text.count("Search another range of lr, or train more steps") == 1
    assert [each["only_class"] for each in tuning_document(found)["groups"][0]["trials"]] == ["neg", "pos", None]
    rows = csv.DictReader(tuning_csv(found).splitlines())
    assert [row["only_class"] for row in rows] == ["neg", "pos", "", "", "neg"]


def test_names_are_escaped_on_the_page() -> None:
    assert "<b>x" not in tuning_html(results(("<b>x", [trial(1, 0.8)])))
