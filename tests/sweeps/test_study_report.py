"""The report of a planned study: every state of a group, with its difference, in the unit of the metric."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.studies import HEADS, make_study

from imdbcls.comparison.race import Round, State
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.plan import Plan, PlannedGroup, write_plan
from imdbcls.runtime.text_table import joined
from imdbcls.sweeps.adaptive import replay
from imdbcls.sweeps.study_report import StudyReport, counted
from imdbcls.sweeps.study_runs import PlannedRun, StudyRuns
from imdbcls.sweeps.wall_times import WallTimes

NUM_SEEDS = 4


class Recorded(StudyRuns):
    """The run folders of a simulated study, without configs."""

    def folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.times.path.parent / f"{self.plan.groups[run.group].name}-s{self.plan.seeds[run.seed]}")

    def result(self, run: PlannedRun) -> Mapping[str, Any] | None:
        result = self.folder(run).result()
        if result is not None:
            self._results[run] = result
        return result


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("report") / "heads", HEADS, range(NUM_SEEDS), num_documents=4_000)


def report_of(study: Path, **changes: Any) -> tuple[StudyReport, list[Round]]:
    groups = tuple(PlannedGroup(name=head.name, group_hash=f"group-{head.name}", overrides=()) for head in HEADS)
    fields = {"seeds": tuple(range(NUM_SEEDS)), "first_look": 3, "metric": "accuracy", "margin": 0.02, "futility": None}
    plan = Plan(groups=groups, **{**fields, **changes})
    write_plan(study, plan)
    runs = Recorded(plan, (None,) * len(groups), WallTimes(study))  # type: ignore[arg-type]
    return StudyReport(study, runs), replay(study, plan, frozenset())


def logged(report: StudyReport, rounds: list[Round], **options: Any) -> list[str]:
    """Return the messages at the end of a study."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("imdbcls.sweeps.study_report")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        report.log_end(rounds, options.get("failed", {}), options.get("stopped"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return messages


def states(rounds: list[Round]) -> dict[State, list[int]]:
    found: dict[State, list[int]] = {}
    for group, standing in enumerate(rounds[-1].standings):
        found.setdefault(standing.state, []).append(group)
    return found


def test_each_group_has_a_line_with_the_difference_that_decided(study: Path) -> None:
    report, rounds = report_of(study)
    found = states(rounds)
    assert found.keys() >= {State.WORSE, State.EQUIVALENT}
    text = "\n".join(logged(report, rounds))
    for group in found[State.WORSE]:
        standing = rounds[-1].standings[group]
        assert standing.other is not None and standing.num_seeds is not None
        looked = rounds[standing.num_seeds - 3]
        pair = min(group, standing.other), max(group, standing.other)
        inference, sign = looked.inferences[pair], 1 if group < standing.other else -1
        low, high = sorted(100 * sign * end for end in inference.simultaneous)
        expected = (
            f"stopped: worse than {HEADS[standing.other].name}: {100 * sign * inference.estimate.value:+.2f} points "
        )
        assert f"{expected}({low:+.2f} to {high:+.2f}), p " in text and high < 0
    for group in found[State.EQUIVALENT]:
        other = rounds[-1].standings[group].other
        assert other is not None
        assert f"stopped: equivalent to {HEADS[other].name}: " in text
        sentence = (
            rf"^[\w, ]*{HEADS[group].name}[\w, ]* (is|are) equivalent to {HEADS[other].name} within 2\.00 points\.$"
        )
        assert re.search(sentence, text, re.MULTILINE)
    assert text.endswith(f"All results: python -m imdbcls.compare {study}")


def test_futile_and_undecided_groups_are_named(study: Path) -> None:
    report, rounds = report_of(study, margin=None, futility=0.9)
    found = states(rounds)
    text = "\n".join(logged(report, rounds))
    assert found[State.FUTILE]
    reason = r"stopped: \d+% chance of a verdict in the comparison with \w+: \S+ points \(\S+ to \S+\), p "
    assert re.search(reason, text)
    assert f"Even with 4 seeds, the comparison of {HEADS[rounds[-1].leader or 0].name} with " in text
    assert " would probably give no verdict." in text
    report, rounds = report_of(study, margin=None)
    text = "\n".join(logged(report, rounds))
    undecided = [group for group in states(rounds)[State.RUNNING] if group != rounds[-1].leader]
    assert undecided and "not decided" in text
    assert re.search(r"After 4 of 4 seeds, the comparison of \w+ with .* is undecided\.", text)


def test_loss_has_no_percent_and_lower_is_better(study: Path) -> None:
    report, rounds = report_of(study, metric="loss", margin=0.01)
    worse = states(rounds)[State.WORSE]
    text = "\n".join(logged(report, rounds))
    assert worse and "%" not in text and "points" not in text
    assert re.search(r"stopped: worse than \w+: \+0\.\d{4} \(\+0\.\d{4} to \+0\.\d{4}\), p ", text)


def test_end_names_failures_and_why_the_study_stopped(study: Path) -> None:
    report, rounds = report_of(study)
    lines = logged(report, rounds, failed={2: "lstm-s3 failed: no memory"}, stopped="The budget is used up.")
    assert lines[1] == "The budget is used up."
    assert lines[2] == "lstm is left out: lstm-s3 failed: no memory. Repeat the command to train the failed run again."
    assert any(re.match(r"lstm +left out: a run failed +", line) for line in lines)


def test_words() -> None:
    assert [counted(number, "run") for number in (1, 2, 1000)] == ["1 run", "2 runs", "1,000 runs"]
    assert [joined(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
