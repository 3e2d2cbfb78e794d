"""A tuning study as real processes: equal budgets, pruned and failed trials, kills, and two commands at once."""

import csv
import json
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.processes import EVERY_STEP, Command, start, wait_before_step, wait_for
from support.studies import with_documents
from support.trackers import summary

pytestmark = pytest.mark.slow

TINY = (
    *("backbone=tiny", "data=files", "data.train=train.csv", "data.test=test.csv", "tracker=none", "progress=none"),
    *("max_length=16", "batch_size=8", "epochs=2", "device=cpu", "precision=fp32", "study=s"),
)
# The model learns to tell good from bad only with some learning rates, so asha prunes trials after the first epoch.
SEARCH = ("head=mean,max", "lr=tag(log,interval(1e-8,3e-2))", "pruner=asha", "sampler=random")
# The number, the name and the state of a trial that has ended; the state of a finished trial is empty.
END_OF_TRIAL = (
    r"^\[(\d+)/\d+\] (\w+, trial \d+)  \d+\.\d\d%(?:, predicts only '[01]')?(?:, (pruned) after 1 epoch)?"
    r"(?: \(best(?: \d+\.\d\d%)?\))?  lr=\S+  \d+(?:\.\d)? (?:s|min)(?:  \(\S+ (?:s|min) left\))?$"
)
BUDGET = ("budget.trials=4", "winners.seeds=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_documents(tmp_path / "folder")


def tune(folder: Path, *arguments: str, prepare: Callable[[], None] | None = None) -> Command:
    return start(folder, *TINY, *arguments, command="imdbcls.tune", prepare=prepare)


def finish(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a tuning study that must end with the exit code `code`. Return its output."""
    command = tune(folder, *arguments)
    assert command.wait() == code, command.output
    assert "Traceback" not in command.output, command.output
    return command.output


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/s-trials/tuning.json").read_text())


def trials(folder: Path) -> list[dict[str, Any]]:
    """Return all trials of tuning.json without their times."""
    found = [trial for group in document(folder)["groups"] for trial in group["trials"]]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found]


def results(folder: Path, study: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"runs/{study}/*/result.json"))]


def test_groups_get_equal_budgets_and_the_same_command_trains_nothing_again(folder: Path) -> None:
    output = finish(folder, *SEARCH, *BUDGET)
    content = document(folder)
    assert [(group["name"], len(group["trials"])) for group in content["groups"]] == [("mean", 4), ("max", 4)]
    states = [trial["state"] for trial in trials(folder)]
    assert "pruned" in states and set(states) == {"done", "pruned"}
    assert all(len(group["expected"]) == 4 for group in content["groups"])
    found = results(folder, "s-trials")
    assert sorted(result["status"] for result in found) == sorted(
        "trial" if state == "done" else state for state in states
    )
    assert not any(key.startswith("test/") for result in found for key in result)
    assert not list(folder.glob("runs/s-trials/*/predictions")) and not list(folder.glob("runs/s-trials/*/checkpoints"))
    assert {trial["epochs"] for trial in trials(folder) if trial["state"] == "pruned"} == {1}
    rows = list(csv.DictReader((folder / "runs/s-trials/tuning.csv").open()))
    assert [row["state"] for row in rows] == states and all(float(row["lr"]) > 0 for row in rows)
    page = (folder / "runs/s-trials/tuning.html").read_text()
    assert page.count("<svg") == 4 and "pruned" in page and "https:" not in page

    winners = results(folder, "s")
    assert [(run["status"], run["seed"], run["head"]) for run in winners] == [("done", 1, "max"), ("done", 1, "mean")]
    for group, run in zip(reversed(content["groups"]), winners, strict=True):
        best = max((each for each in group["trials"] if each["state"] == "done"), key=lambda each: each["value"])
        config = (folder / f"runs/s/{run['name']}/config.yaml").read_text()
        assert group["best"] == best and f"\nlr: {best['values']['lr']}\n" in f"\n{config}"
    assert "Compare the runs: python -m imdbcls.compare runs/s" in output
    assert "is too optimistic" in output
    assert content["most_common_class"] == {"name": "0", "share": 0.5}
    num_collapsed = sum(trial["only_class"] is not None for trial in trials(folder))
    assert num_collapsed > 0, "a learning rate near 1e-8 is too small to learn"
    assert len(re.findall(r"^\[\d/8\] .*, predicts only '[01]'", output, re.M)) == num_collapsed
    assert "one class for all validation documents" in " ".join(output.split())
    shown = re.findall(END_OF_TRIAL, output, re.M)
    assert [number for number, *_ in shown] == [str(number) for number in range(1, 9)]
    assert sorted(state or "done" for *_, state in shown) == sorted(states)
    lines = output.splitlines()
    assert output.count(" test documents, 2 classes") == 1, "trials and winners show shared messages once"
    assert [line.split("  ")[0] for line in lines if line.startswith("[2/2]")] == [f"[2/2] {winners[0]['name']}"] * 2
    for hidden in ("loading the documents", "next: ", "Loading weights", "not evaluated on test", "trained in"):
        assert hidden not in output
    assert lines[-1] == "Compare the runs: python -m imdbcls.compare runs/s"

    again = finish(folder, *SEARCH, *BUDGET)
    assert document(folder) == content and not re.search(END_OF_TRIAL, again, re.M)
    assert "2 groups with 4 trials each, compared by validation accuracy; 8 trials ended earlier" in again
    more = finish(folder, *SEARCH, "budget.trials=5", "winners.seeds=0")
    assert [number for number, *_ in re.findall(END_OF_TRIAL, more, re.M)] == ["9", "10"]
    assert "The same command with winners.seeds=3 trains these configurations with new seeds" in more
    assert [len(g["trials"]) for g in document(folder)["groups"]] == [5, 5]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_continues_its_trial_and_proposes_the_same_values(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    search = (*SEARCH, "budget.trials=3", "winners.seeds=0", EVERY_STEP)
    other = with_documents(tmp_path / "other")
    finish(other, *search)
    command = tune(folder, *search, prepare=partial(wait_before_step, 8, run="max"))
    saved = folder.glob
    assert wait_for(lambda: len(list(saved("runs/s-trials/max-*/checkpoints/last/manifest.json"))) == 1, command)
    command.signal(number)
    assert command.wait() == (-number if number == signal.SIGKILL else 128 + number)
    again = finish(folder, *search)
    assert "Continuing at step" in again
    assert trials(folder) == trials(other)


def test_two_commands_on_one_folder_train_exactly_the_budget(folder: Path) -> None:
    both = [tune(folder, *SEARCH, *BUDGET) for _ in range(2)]
    assert [command.wait() for command in both] == [0, 0], "".join(command.output for command in both)
    output = "".join(command.output for command in both)
    assert "Traceback" not in output and "in use by" not in output
    assert [len(group["trials"]) for group in document(folder)["groups"]] == [4, 4]
    ended = [[name for _, name, _ in re.findall(END_OF_TRIAL, command.output, re.M)] for command in both]
    assert all(ended) and len({*ended[0], *ended[1]}) == len(ended[0] + ended[1]) == 4 + 4  # each was trained once


def test_a_trial_with_a_nan_loss_counts_as_failed(folder: Path) -> None:
    arguments = (
        "head=mean",
        "lr=interval(1e30,1e31)",
        "budget.trials=2",
        "optimizer=sgd",
        "trainer.max_grad_norm=null",
    )
    output = finish(folder, *arguments, code=1)
    assert [trial["state"] for trial in trials(folder)] == ["failed", "failed"]
    assert "At least one group has no finished trial" in output
    assert re.search(r"^\[2/2\] mean, trial 2  failed  lr=\d\S+  [\d.]+ (s|min)$", output, re.M)
    assert output.count("the loss is nan") == 2, "only the process of a trial logs its error"
    assert "Expected validation" not in output
    finish(folder, *arguments, code=1)
    assert len(trials(folder)) == 2


def test_settings_that_would_make_trials_incomparable_are_refused(folder: Path) -> None:
    arguments = (*SEARCH, "budget.trials=2", "winners.seeds=0")
    finish(folder, *arguments)
    before = document(folder)
    for change, sentence in (
        ("pruner=none", "has trials of mean with another pruner (asha)"),
        ("sampler_seed=1", "another sampler_seed (0)"),
        ("lr=tag(log,interval(1e-8,1e-2))", "another space (lr: {'interval': [1e-08, 0.03], 'log': True})"),
        ("epochs=3", "another configuration"),
        ("budget.trials=1", "budget.trials=1 is too small: 2 trials of mean have begun"),
    ):
        kept = [each for each in arguments if each.partition("=")[0] != change.partition("=")[0]]
        assert sentence in finish(folder, *kept, change, code=2)
    assert document(folder) == before


def test_an_sql_database_can_store_the_trials_of_parallel_jobs(folder: Path) -> None:
    storage = ("storage=sqlite:///tuning.db", "jobs=2", "budget.trials=2", "winners.seeds=0")
    finish(folder, *SEARCH, *storage)
    assert [trial["state"] in ("done", "pruned") for trial in trials(folder)] == [True] * 4
    assert not (folder / "runs/s-trials/optuna.journal").exists()
    assert not re.search(END_OF_TRIAL, finish(folder, *SEARCH, *storage), re.M)


def test_hours_end_the_trials_of_each_group(folder: Path) -> None:
    finish(folder, *SEARCH, "budget.hours=1e-6", "winners.seeds=0")
    assert [len(group["trials"]) for group in document(folder)["groups"]] == [1, 1]
    finish(folder, *SEARCH, "budget.hours=1e-6", "winners.seeds=0")  # the first command has used up the budget
    assert len(trials(folder)) == 2
    output = finish(folder, *SEARCH, "budget.hours=1e-7", code=2)
    assert "budget.hours=1e-07 is too small: the trials of mean" in output


def test_values_that_cannot_be_combined_count_as_failed(folder: Path) -> None:
    space = ("head=mean", "batch_size=8,2", "trainer.micro_batch_size=2,8", "lr=1e-3,1e-2", "sampler=random")
    output = finish(folder, *space, "budget.trials=6", "winners.seeds=0")
    values = [each["values"] for each in trials(folder) if each["state"] == "failed"]
    assert values and all(each["batch_size"] == "2" and each["trainer.micro_batch_size"] == "8" for each in values)
    assert "trainer.micro_batch_size=8 is larger than batch_size=2" in output and len(trials(folder)) == 6


def test_hours_end_when_the_whole_search_space_is_tried(folder: Path) -> None:
    output = finish(folder, "head=mean", "lr=1e-3,1e-2", "budget.hours=1", "winners.seeds=0")
    assert "1 group with at most 1 hour or 2 trials (the whole search space) each" in output
    assert sorted(each["values"]["lr"] for each in trials(folder)) == ["0.001", "0.01"]


def test_wandb_names_pruned_trials(folder: Path) -> None:
    arguments = [each for each in (*TINY, *SEARCH) if each not in ("tracker=none", "head=mean,max")]
    wandb = ("tracker=wandb", "tracker.mode=offline", "head=mean", "budget.trials=4", "winners.seeds=0")
    command = start(folder, *arguments, *wandb, command="imdbcls.tune")
    assert command.wait() == 0, command.output
    logs = [summary(log)["summary"] for log in folder.glob("runs/s-trials/wandb/offline-run-*/*.wandb")]
    assert sorted(log["status"] for log in logs) == sorted(each["status"] for each in results(folder, "s-trials"))
    assert "pruned" in {log["status"] for log in logs} and not any("test/accuracy" in log for log in logs)


def test_winners_can_be_compared_by_a_planned_study(folder: Path) -> None:
    output = finish(folder, *SEARCH, "budget.trials=1", "winners.study=true", "winners.seeds=2")
    plan = json.loads((folder / "runs/s/plan.json").read_text())
    assert len(plan["groups"]) == 2 and "Look" in output
    assert {result["seed"] for result in results(folder, "s")} == {1, 2}
    output = finish(folder, *SEARCH, "budget.trials=2", "winners.study=true", "winners.seeds=2", code=2)
    assert "runs/s/plan.json fixes the winners, but the budget allows further trials of mean, which could" in output
    assert len(trials(folder)) == 2, "no trial begins before the error"
    assert "the study is over" in finish(folder, *SEARCH, "budget.trials=1", "winners.study=true", "winners.seeds=2")
