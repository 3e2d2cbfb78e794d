"""Trials in Optuna's storage: proposals, the budget, and trials of other machines."""

import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from support.limits import HANG_SECONDS

from imdbcls.config.command_keys import read_command_keys
from imdbcls.config.space import Choices, Interval
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.sweeps import trials
from imdbcls.sweeps.trials import GroupTrials, Storage, make_pruner, seconds_of, value_of

SPACE = (
    Choices("batch_size", ("16", "32")),
    Interval("lr", 1e-5, 1e-3, log=True),
    Interval("epochs", 1, 5, is_whole=True),
)


def settings(*overrides: str) -> TuneSettings:
    found = read_command_keys(overrides, TuneSettings, "tune.yaml").settings
    assert found is not None
    return found


def group(folder: Path, *overrides: str, name: str = "lstm", metric: str = "accuracy") -> GroupTrials:
    url = f"sqlite:///{folder}/tuning.db" if "sql" in overrides else None
    chosen = settings(*(each for each in overrides if each != "sql"))
    return GroupTrials(Storage(url, folder), f"s: {name}", name, metric, chosen, SPACE)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_depend_only_on_the_seed_the_group_and_the_results(sampler: str, tmp_path: Path) -> None:
    def proposals(folder: Path, *overrides: str, reopens: bool, name: str = "lstm") -> list[dict[str, object]]:
        folder.mkdir()
        found = []
        opened = group(folder, f"sampler={sampler}", *overrides, name=name)
        for number in range(13):  # tpe proposes at random until ten trials have ended
            opened = group(folder, f"sampler={sampler}", *overrides, name=name) if reopens else opened
            trial = opened.ask("here")
            assert trial is not None
            found.append(trial.params)
            opened.tell(trial, TrialState.COMPLETE, number / 13)
        return found

    first = proposals(tmp_path / "a", reopens=False)
    assert proposals(tmp_path / "b", reopens=True) == first
    assert proposals(tmp_path / "c", "sampler_seed=1", reopens=False) != first
    assert proposals(tmp_path / "d", reopens=False, name="cls") != first
    assert {each["batch_size"] for each in first} == {"16", "32"} and all(1 <= each["epochs"] <= 5 for each in first)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("budget", ["budget.hours=1", "budget.trials=50"])
def test_a_finite_space_is_tried_once_and_ends_the_group(sampler: str, budget: str, tmp_path: Path) -> None:
    space = (
        Choices("batch_size", ("16", "32", "64")),
        Interval("dropout", 0.1, 0.4, step=0.1),
        Interval("epochs", 2, 3, is_whole=True),
    )
    opened = GroupTrials(Storage(None, tmp_path), "s", "cls", "accuracy", settings(budget, f"sampler={sampler}"), space)
    while opened.has_room():
        if (trial := opened.ask("here")) is not None:
            opened.tell(trial, TrialState.COMPLETE, float(trial.params["batch_size"] == "16"))
    tried = [
        (each.params["batch_size"], round(each.params["dropout"], 6), each.params["epochs"]) for each in opened.trials()
    ]
    assert opened.max_trials == 24 and len(tried) == len(set(tried)) == 24
    assert opened.ask("here") is None and len(opened.trials()) == 24


def test_a_trial_killed_while_proposing_gets_the_same_values(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    whole = group(tmp_path / "a").ask("here")
    opened = group(tmp_path)
    opened._study.ask()  # killed before the first value
    (frozen,) = opened.open_trials()
    assert whole is not None and opened.continued(frozen).params == whole.params


def test_budget_of_trials_and_of_hours(tmp_path: Path) -> None:
    opened = group(tmp_path, "budget.trials=2")
    for _ in range(2):
        assert opened.has_room()
        assert opened.ask("here") is not None
    assert not opened.has_room()
    assert opened.ask("here") is None  # another machine was faster: the trial is not part of the budget
    assert len(opened.trials()) == len(opened.open_trials()) == 2

    timed = group(tmp_path, "budget.hours=1", name="cls")
    trial = timed.ask("here")
    assert trial is not None and timed.has_room()
    trial.set_user_attr("seconds", 3600.0)
    assert not timed.has_room() and seconds_of(timed.trials()[0]) == 3600


def test_best_and_values_of_finished_pruned_and_failed_trials(tmp_path: Path) -> None:
    opened = group(tmp_path, metric="loss")
    for state, value in ((TrialState.COMPLETE, 0.4), (TrialState.COMPLETE, 0.3), (TrialState.PRUNED, 0.1)):
        trial = opened.ask("here")
        assert trial is not None
        trial.report(value, 1)
        opened.tell(trial, state, value)
    failed = opened.ask("here")
    assert failed is not None
    opened.tell(failed, TrialState.FAIL)
    assert not opened.is_open(failed)
    best = opened.best()
    assert best is not None and best.number == 1 and best.value == 0.3
    assert [value_of(trial) for trial in opened.trials()[:3]] == [0.4, 0.3, 0.1]


def test_a_reporter_prunes_by_the_other_trials_and_ignores_an_epoch_reported_twice(tmp_path: Path) -> None:
    opened = group(tmp_path, "pruner=asha")
    decisions = []
    for value in (0.9, 0.1, 0.95):
        trial = opened.ask("here")
        assert trial is not None
        with opened.reporter(trial).opened() as report:
            decisions.append(report(1, value))
            assert report(1, 0.0) is decisions[-1]  # a process that was killed repeats its last epoch
        opened.tell(trial, TrialState.PRUNED if decisions[-1] else TrialState.COMPLETE, value)
    assert decisions == [False, True, False]


def test_pruners() -> None:
    assert isinstance(make_pruner("median"), optuna.pruners.MedianPruner)
    assert isinstance(make_pruner("none"), optuna.pruners.NopPruner)


def test_a_trial_of_a_dead_machine_is_proposed_again_without_changing_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(trials, "GRACE_SECONDS", HANG_SECONDS)
    dead = group(tmp_path, "sql", "budget.trials=1").ask("other machine")
    assert dead is not None
    opened = group(tmp_path, "sql", "budget.trials=1")
    assert len(opened.open_trials()) == 1 and not opened.has_room()
    monkeypatch.setattr(trials, "GRACE_SECONDS", 1)
    opened = group(tmp_path, "sql", "budget.trials=1")
    time.sleep(2.5)
    assert opened.open_trials() == [] and opened.has_room()
    again = opened.ask("here")
    assert again is not None and again.params == dead.params and not opened.has_room()
    opened.tell(again, TrialState.COMPLETE, 0.5)
    assert [trial.state for trial in opened.trials()] == [TrialState.COMPLETE]


def test_a_living_trial_keeps_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(trials, "GRACE_SECONDS", HANG_SECONDS)
    beats, record = threading.Semaphore(0), RDBStorage.record_heartbeat

    def counted(storage: RDBStorage, trial_id: int) -> None:
        record(storage, trial_id)
        beats.release()

    opened = group(tmp_path, "sql")
    trial = opened.ask("here")
    assert trial is not None
    monkeypatch.setattr(RDBStorage, "record_heartbeat", counted)
    with opened.reporter(trial).opened():
        for _ in range(2):
            assert beats.acquire(timeout=HANG_SECONDS)
        assert len(opened.open_trials()) == 1
