"""A planned study as real processes: rounds, stopped groups, failures, signals, kills, and the budget.

The groups have three learning rates. With two of them, the model learns to tell good from bad. The group with the
third learning rate is stopped at the first look.
"""

import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.faults import FAULTY, faulty
from support.processes import Command, start, wait_after_runs, wait_for

pytestmark = pytest.mark.slow

TINY = (
    *("backbone=tiny", "data=files", "data.train=train.csv", "data.test=test.csv", "tracker=none", "progress=none"),
    *("max_length=16", "batch_size=8", "epochs=2", "device=cpu", "precision=fp32"),
)
GROUPS = ("head=mean", "lr=1e-2,5e-3,1e-9")
SEEDS = ("seeds.first=2", "seeds.max=3")
NUM_RUNS = 3 * 2 + 2  # six before and two after the first look


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a working directory with 160 training and 300 test documents."""
    for split, count in (("train", 160), ("test", 300)):
        rows = [f"{split}{i},{'good' if i % 2 else 'bad'} film{i},{i % 2}" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    return tmp_path


def study(folder: Path, *arguments: str, **options: Any) -> Command:
    return start(folder, *TINY, *arguments, command="imdbcls.study", **options)


def finish(folder: Path, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> str:
    """Run a study that must end with the exit code `code`. Return its output."""
    command = study(folder, *arguments, environment=environment)
    assert command.wait() == code, command.output
    assert "Traceback" not in command.output
    return command.output


def runs(folder: Path) -> dict[str, list[int]]:
    """Map each learning rate to the seeds of its finished runs."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("runs/default/*/result.json")):
        if json.loads(path.read_text())["status"] == "done":
            lr = re.search(r"^lr: (\S+)", (path.parent / "config.yaml").read_text(), re.MULTILINE)
            assert lr is not None
            found.setdefault(lr[1], []).append(json.loads(path.read_text())["seed"])
    return found


def verdict(output: str) -> list[str]:
    """Return the part of the output from the last look on, without times."""
    lines = output[output.rindex("\nLook ") :].strip().splitlines()
    return [re.sub(r"(, about)? [\d.]+ (s|min)\b", "", line) for line in lines]


def test_worse_groups_get_no_further_seeds(folder: Path) -> None:
    output = finish(folder, *GROUPS, *SEEDS)
    assert runs(folder) == {"0.01": [0, 1, 2], "0.005": [0, 1, 2], "1.0e-09": [0, 1]}
    assert "Round 1: 6 runs of mean lr=0.01, mean lr=0.005 and mean lr=1e-09, seeds 0, 1\n" in output
    assert "Look 1 of 2, after 2 seeds\n" in output
    assert re.search(r"mean lr=1e-09 +stopped: worse than mean lr=0\.01: -50\.00 points \(-\S+ to -\S+\), p < ", output)
    assert "Round 2: 2 runs of mean lr=0.01 and mean lr=0.005, seed 2\n" in output
    assert "Look 2 of 2, after 3 seeds: the study is over\n" in output
    ends = re.findall(r"^\[(\d)/(\d)\] mean-s\d-\S+  validation \S+  test ", output, re.MULTILINE)
    assert ends == [*((str(number), "6") for number in range(1, 7)), ("7", "8"), ("8", "8")]
    assert "next: " not in output, "the study itself says what to do next"
    assert "mean lr=0.01 is better than mean lr=1e-09.\n" in output
    assert re.search(r"Cost: 8 of 9 runs, [\d.]+ (s|min)\. Saved: 1 run, about [\d.]+ (s|min)\.\n", output)
    assert output.endswith("All results: python -m imdbcls.compare runs/default\n")
    plan = json.loads((folder / "runs/default/plan.json").read_text())
    assert [group["name"] for group in plan["groups"]] == ["mean lr=0.01", "mean lr=0.005", "mean lr=1e-09"]
    assert plan["seeds"] == [0, 1, 2] and plan["first_look"] == 2 and plan["margin"] == 0.003
    times = json.loads((folder / "runs/default/wall_times.json").read_text())["seconds"]
    assert len(times) == NUM_RUNS and all(seconds > 0 for seconds in times.values())

    again = finish(folder, "head=mean", "lr=1e-9,5e-3,1e-2", *SEEDS)  # the order of the groups does not matter
    assert verdict(again) == verdict(output) and "Round" not in again


@pytest.mark.parametrize("num_finished", [1, 7])
def test_killed_study_continues_with_the_same_decisions(num_finished: int, folder: Path, tmp_path: Path) -> None:
    """The study gets SIGKILL in the first round, or after the first look."""
    command = study(folder, *GROUPS, *SEEDS, prepare=partial(wait_after_runs, num_finished))
    assert wait_for(lambda: sum(map(len, runs(folder).values())) >= num_finished, command)
    command.kill()
    killed = runs(folder)
    assert sum(map(len, killed.values())) == num_finished
    output = finish(folder, *GROUPS, *SEEDS)
    assert f"Already finished: {sum(map(len, killed.values()))} run" in output
    assert runs(folder) == {"0.01": [0, 1, 2], "0.005": [0, 1, 2], "1.0e-09": [0, 1]}
    whole = tmp_path / "whole"
    whole.mkdir()
    for split in ("train", "test"):
        (whole / f"{split}.csv").write_bytes((folder / f"{split}.csv").read_bytes())
    assert verdict(finish(whole, *GROUPS, *SEEDS)) == verdict(output)


def test_signal_stops_the_study_after_the_run_has_saved(folder: Path) -> None:
    command = study(folder, *GROUPS, *SEEDS, prepare=partial(wait_after_runs, 1))
    assert wait_for(lambda: bool(runs(folder)), command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert "The study was stopped by SIGTERM. Repeat the command to continue.\n" in command.output
    assert "is left out" not in command.output
    output = finish(folder, *GROUPS, *SEEDS)
    assert "the study is over" in output


def test_parallel_runs_reach_the_same_verdict(folder: Path) -> None:
    output = finish(folder, *GROUPS, *SEEDS, "jobs=2")
    assert runs(folder) == {"0.01": [0, 1, 2], "0.005": [0, 1, 2], "1.0e-09": [0, 1]}
    assert "mean lr=0.01 is better than mean lr=1e-09.\n" in output


def test_group_with_a_failed_run_is_left_out_and_tried_again(folder: Path) -> None:
    dropouts = (*FAULTY, "+head.only_dropout=0.2", "head.dropout=0.1,0.2,0.3", "lr=1e-2", *SEEDS)
    output = finish(folder, *dropouts, code=1, environment=faulty("exit", at=8))
    assert (
        "cls head.dropout=0.2 is left out: cls-s0-" in output
        and "Repeat the command to train the failed run again." in output
    )
    assert "Look 2 of 2, after 3 seeds: the study is over" in output
    assert re.search(r"cls head\.dropout=0\.2 +left out: a run failed", output)
    again = finish(folder, *dropouts, environment=faulty("", at=8))
    assert "Round 1: 2 runs of cls head.dropout=0.2, seeds 0, 1\n" in again
    assert "Round 2: 1 run of cls head.dropout=0.2, seed 2\n" in again
    assert "the study is over" in again and "left out" not in again


def test_study_ends_if_fewer_than_two_groups_are_left(folder: Path) -> None:
    dropouts = (*FAULTY, "+head.only_dropout=0.2", "head.dropout=0.1,0.2", "lr=1e-2", *SEEDS)
    output = finish(folder, *dropouts, code=1, environment=faulty("exit", at=8))
    assert "cls head.dropout=0.2 is left out" in output and "Look" not in output and "Round 2" not in output


def test_budget_stops_the_study_and_a_larger_one_continues(folder: Path) -> None:
    output = finish(folder, *GROUPS, *SEEDS, "budget.runs=7")
    assert "The next round needs 2 runs, and 6 runs are finished, but budget.runs=7." in output
    assert "After 2 of 3 seeds, the comparison of mean lr=0.01 with mean lr=0.005 is undecided." in output
    assert sum(map(len, runs(folder).values())) == 6
    output = finish(folder, *GROUPS, *SEEDS, "budget.hours=1e-6")
    assert re.search(
        r"The next round needs 2 runs \(about [\d.]+ (s|min) in total\), and the study has used [\d.]+ (s|min), "
        r"but budget\.hours=1e-06\.",
        output,
    )
    assert "the study is over" in finish(folder, *GROUPS, *SEEDS, "budget.runs=8", "budget.hours=10")


def test_used_up_hours_stop_the_first_round(folder: Path) -> None:
    output = finish(folder, *GROUPS, *SEEDS, "budget.hours=1e-6")
    assert "budget.hours=1e-06 is used up." in output and "Look" not in output
    assert sum(map(len, runs(folder).values())) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((*GROUPS, "seeds.max=4"), "seeds is 4 (0 to 3) instead of 3 (0 to 2)"),
        ((*GROUPS, "margin=1"), "margin is 0.01 instead of 0.003"),
        ((*GROUPS, "futility=true"), "futility is 0.1 instead of None"),
        (("head=mean", "lr=1e-2,5e-3"), "without mean lr=1e-09"),
    ],
)
def test_changed_plan_is_refused(change: tuple[str, ...], sentence: str, folder: Path) -> None:
    finish(folder, *GROUPS, *SEEDS, "budget.hours=1e-6")
    before = (folder / "runs/default/plan.json").read_bytes()
    output = finish(folder, *SEEDS, *change, code=2)
    (line,) = output.splitlines()
    assert line.startswith("imdbcls: runs/default/plan.json fixes another plan") and sentence in line
    assert finish(folder, *SEEDS, *change, "--plan", code=2) == output
    assert (folder / "runs/default/plan.json").read_bytes() == before


@pytest.mark.parametrize("option", ("--plan", "--dry-run"))
def test_plan_prints_the_cost_and_writes_nothing(option: str, folder: Path) -> None:
    output = finish(folder, *GROUPS, *SEEDS, option)
    assert re.search(
        r"3 groups, tested after 2 to 3 seeds\. At least 6 runs:\s+about \S+ (s|min)\. At most 9 runs:", output
    )
    text = " ".join(output.split())
    assert re.search(r"With 3 seeds per group, 80 % of these studies detect a true difference of [\d.]+ points", text)
    assert "assumes that documents are independent" in text and "on 8 % of the documents, only one of two" in text
    assert re.search(r"mean lr=0\.005 +3 +3 ", output) and not (folder / "runs").exists()


def test_finished_runs_without_a_plan_are_refused(folder: Path) -> None:
    train = start(folder, *TINY, "head=mean", "lr=1e-2", "seed=7")
    assert train.wait() == 0
    (line,) = finish(folder, *GROUPS, *SEEDS, code=2).splitlines()
    assert "runs/default has no plan.json, but it has finished runs of mean lr=0.01." in line
    assert not (folder / "runs/default/plan.json").exists()
    finish(folder, *GROUPS, *SEEDS, "study=other", "budget.hours=1e-6")


def test_finished_run_that_cannot_be_compared_is_reported(folder: Path) -> None:
    finish(folder, *GROUPS, *SEEDS, "budget.runs=7")
    for path in folder.glob("runs/default/*/result.json"):
        result = json.loads(path.read_text())
        if result["seed"] == 1:
            path.write_text(json.dumps({**result, "format_version": 99}))
    output = finish(folder, *GROUPS, *SEEDS, code=2)
    assert "runs/default cannot be tested after 2 seeds per group" in output


def test_groups_with_different_documents_are_refused_after_their_first_runs(folder: Path) -> None:
    output = finish(folder, "head=mean", "lr=1e-2", "data.train_limit=80,null", *SEEDS, code=2)
    assert "have different documents (split_hash)" in output and len(list(folder.glob("runs/*/*/result.json"))) == 2


def test_second_command_on_the_same_study_is_refused(folder: Path) -> None:
    first = study(folder, *GROUPS, *SEEDS, prepare=partial(wait_after_runs, 1))
    assert wait_for(lambda: bool(runs(folder)), first)
    output = finish(folder, *GROUPS, *SEEDS, code=2)
    assert f"The study runs/default is in use by process {first.process.pid} on" in output
    first.signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM


def test_folder_that_cannot_be_written_is_reported(folder: Path) -> None:
    (folder / "file").touch()
    output = finish(folder, *GROUPS, *SEEDS, "runs_dir=file", code=2)
    assert output.startswith("imdbcls: file/default cannot be written or locked (Not a directory: file")
