"""`--dry-run` lists the runs of a command, measures their cost, and leaves nothing behind."""

import os
import re
import signal
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import pytest
from support.faults import FAULTY, WAITING, faulty
from support.processes import TINY, Command, run, start, wait_for, wait_in_training

from imdbcls.config.overrides import compose
from imdbcls.config.space import Choices, Interval
from imdbcls.config.tune_settings import SpaceSettings, TuneBudget, TuneSettings, WinnerSettings
from imdbcls.errors import UserError
from imdbcls.sweeps.cost import Estimate, GroupEstimate, RunCost
from imdbcls.sweeps.dry_run import groups_of_command
from imdbcls.sweeps.tuning_estimate import middle, trials_of, winners_of

SWEEP = ("--multirun", *TINY, "head=cls,mean", "seed=0,1")


def estimate(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None, command: str = "imdbcls.train"
) -> Command:
    """Start a command with --dry-run in a folder, with a separate folder for temporary files."""
    temporary = folder.with_name(f"{folder.name}-temporary")
    temporary.mkdir(exist_ok=True)
    variables = {"TMPDIR": str(temporary), **(environment or {})}
    return start(folder, *arguments, "--dry-run", environment=variables, command=command)


def rows(command: Command) -> dict[str, list[str]]:
    """Map the first cell of each row of the table to the other cells."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in command.output.splitlines() if "  " in line]
    return {name: others for name, *others in cells}


def left_in(folder: Path) -> list[str]:
    """Return the names of the files that a command left in its folders, except the compiled kernels.

    Of the temporary files, only those of imdbcls count: W&B removes its own when the interpreter exits, and the process
    of a test ends without that.
    """
    temporary = folder.with_name(f"{folder.name}-temporary")
    found = [*folder.iterdir(), *temporary.glob("imdbcls*"), *temporary.glob("cache/*"), *(folder / "cache").iterdir()]
    return sorted(path.name for path in found if path.name not in ("cache", "kernels"))


def test_a_sweep_is_estimated_and_finished_runs_are_not_counted_again(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = estimate(folder, *SWEEP, "tracker=wandb", "backbone.freeze=true", "jobs=2", "warmup=0,0.2")
    assert command.wait() == 0, command.output
    table = rows(command)
    for group in ("cls warmup=0", "cls warmup=0.2", "mean warmup=0", "mean warmup=0.2"):
        assert table[group][:2] == ["2", "2"]
    assert table["total"][:2] == ["8", "8"]
    measured = [line for line in command.output.splitlines() if line.startswith("Measuring")]
    assert measured == [
        f"Measuring {part} ..." for part in ("tokenization and encoding", "cls warmup=0", "mean warmup=0")
    ]
    assert "once: start, tokens, encoding" in table
    assert "The frozen encoder's output takes another" in command.output
    assert "Not included: downloads, waiting for W&B" in command.output
    assert left_in(folder) == []

    run(folder, "--multirun", *TINY, "head=cls", "seed=0,1", "backbone.freeze=true")
    run(folder, *TINY, "head=mean", "backbone.freeze=true")
    before = left_in(folder)
    again = estimate(folder, *SWEEP, "backbone.freeze=true")
    assert again.wait() == 0, again.output
    table = rows(again)
    assert table["cls"] == ["2", "0", "done"] and table["mean"][:2] == ["2", "1"]
    assert "4 runs, 3 of them done" in again.output
    assert "encoding" not in again.output.split("Estimate")[1]  # the encoder's output is already cached
    assert left_in(folder) == before


def test_a_single_run_is_estimated(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = estimate(folder, *TINY, "jobs=3")
    assert command.wait() == 0, command.output
    assert "Estimate before anything trains: 1 run, about" in command.output
    assert rows(command)["cls"][:2] == ["1", "1"]


def test_a_group_that_cannot_be_measured_does_not_stop_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    arguments = ("--multirun", *TINY, *FAULTY, "+head.only_dropout=0.2", "head.dropout=0.1,0.2,0.3", "jobs=2")
    command = estimate(folder, *arguments, environment=faulty("raise"))
    assert command.wait() == 1, command.output
    reason = "which could not be measured: ZeroDivisionError: the second job's own mistake."
    assert f"cls head.dropout=0.2, {reason}" in " ".join(command.output.split())
    assert rows(command)["cls head.dropout=0.2"] == ["1", "1", "not measured"]
    assert rows(command)["cls head.dropout=0.3"][2] != "not measured"
    assert left_in(folder) == []


def test_mistakes_are_reported_before_anything_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = estimate(folder, *SWEEP, "lerning_rate=1", "epochs=0")
    assert command.wait() == 2
    assert "lerning_rate" in command.output and "epochs=0" in command.output and "Measuring" not in command.output
    shown = estimate(folder, *TINY, "--cfg", "job")
    assert shown.wait() == 2 and "--dry-run and --cfg cannot be combined" in shown.output


@pytest.mark.parametrize("moment", ("Measuring cls", WAITING))  # before and during a measurement in another process
def test_a_signal_ends_the_measurement(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = estimate(folder, *SWEEP, *FAULTY, environment=faulty("slow step"))
    assert wait_for(lambda: moment in command.output, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    assert "Estimate before" not in command.output and left_in(folder) == []


def test_the_runs_are_those_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = groups_of_command([*TINY, "head=cls,lstm", "warmup=0,0.2", "seed=0,1", "--multirun"])
    assert list(found) == ["cls warmup=0", "cls warmup=0.2", "lstm warmup=0", "lstm warmup=0.2"]
    assert found["lstm warmup=0.2"] == [compose((*TINY, "head=lstm", "warmup=0.2", f"seed={seed}")) for seed in (0, 1)]
    seven = groups_of_command(["experiment=heads", "data=sample"])  # the experiment itself sweeps heads and seeds
    assert list(seven) == ["cls", "weight_avg", "lstm", "transformer", "attention", "mean", "max"]
    assert {len(runs) for runs in seven.values()} == {3}
    assert not os.listdir(tmp_path)


def test_a_sweeper_that_chooses_runs_from_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.sweeps.dry_run.is_search", lambda sweeper: True)
    with pytest.raises(UserError, match="--dry-run needs to know all runs, but "):
        groups_of_command([*TINY, "seed=0,1", "--multirun"])


def in_every_step(_trainer: object) -> bool:
    return True


PRETRAINING = tuple(each for each in TINY if not each.startswith("data.test_limit"))


def test_pretraining_is_estimated_until_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = estimate(folder, *PRETRAINING, "epochs=1000", command="imdbcls.pretrain")
    assert command.wait() == 0, command.output
    many = rows(command)["pretrain"]
    assert many[:2] == ["1", "1"] and "1 run, about" in command.output and left_in(folder) == []
    assert re.search(r"Measured in \S+ s( \(longer than the run itself\))? with \d+ training documents", command.output)
    minutes = {"s": 1 / 60, "min": 1, "h": 60}
    value, unit = many[2].split()
    # An epoch of 96 documents, with its evaluation and checkpoint, takes far more than 10 ms and far less than 20 s.
    assert 0.15 < float(value) * minutes[unit] < 330

    run(folder, *PRETRAINING, command="imdbcls.pretrain")
    before = left_in(folder)
    done = estimate(folder, *PRETRAINING, command="imdbcls.pretrain")
    assert done.wait() == 0 and rows(done)["pretrain"] == ["1", "0", "done"], done.output
    assert left_in(folder) == before


def test_a_signal_ends_the_measurement_of_pretraining(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "work", tmp_path / "work-temporary"
    folder.mkdir()
    temporary.mkdir()
    command = start(
        folder,
        *PRETRAINING,
        "--dry-run",
        environment={"TMPDIR": str(temporary)},
        command="imdbcls.pretrain",
        prepare=partial(wait_in_training, in_every_step),
    )
    assert wait_for(lambda: any(temporary.glob("imdbcls-estimate-*/run/backbone/*")), command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM and left_in(folder) == []


def test_tuning_is_estimated_in_the_middle_of_its_space(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    space = ("lr=tag(log,interval(1e-4,1e-2))", "warmup=0,0.1,0.2", "epochs=range(1,6)")
    tuning = (*(each for each in TINY if not each.startswith(("lr=", "epochs="))), "head=cls,mean", *space)
    command = estimate(folder, *tuning, "budget.trials=7", "winners.seeds=4", command="imdbcls.tune")
    assert command.wait() == 0, command.output
    table, text = rows(command), " ".join(command.output.split())
    assert [table[name][0] for name in ("cls", "mean", "total")] == ["7", "7", "14"]
    assert [table["cls"][3], table["total"][2]] == ["4", "8"]
    assert "with epochs=3 lr=0.001 warmup=0.1. Trials with other values can take more or less time." in text
    assert "pruner=median ends some of them early" in text and left_in(folder) == []

    hours = estimate(folder, *tuning, "budget.hours=2", "pruner=none", "jobs=2", command="imdbcls.tune")
    assert hours.wait() == 0, hours.output
    assert int(rows(hours)["cls"][0]) > 100 and "ends some of them early" not in hours.output
    assert "longer than the run" not in hours.output, "the study takes hours, and the measurement takes seconds"


def tuning_settings(budget: TuneBudget, num_seeds: int) -> TuneSettings:
    return TuneSettings(
        pruner="none",
        sampler="random",
        sampler_seed=0,
        storage=None,
        space=SpaceSettings(lr="x", head_lr="x"),
        budget=budget,
        winners=WinnerSettings(seeds=num_seeds, study=False),
    )


def test_trials_and_winners_have_costs_of_their_own() -> None:
    """A run takes 100 s, of which the test split takes 500 * 0.02 s and the end 5 s."""
    cost = RunCost(
        num_documents={"train": 1000, "validation": 100, "test": 500},
        measured=32,
        start_seconds=2,
        train_seconds=0.01,
        evaluate_seconds=0.02,
        finish_seconds=5,
        finished_bytes=1e6,
        training_bytes=4e6,
        prediction_bytes=100,
    )
    group = GroupEstimate("cls", num_runs=10, num_done=0, jobs=2, cost=cost, seconds=100)
    found = Estimate((group, replace(group, name="lstm", seconds=25)), (), start_seconds=10, measured_seconds=1)
    settings = tuning_settings(TuneBudget(trials=10, hours=None), num_seeds=1)
    trials, winners = trials_of(found, settings, inf), winners_of(found, settings)
    assert [each.seconds for each in trials.groups] == [85, 10] and trials.seconds == 10 + 10 * (85 + 10) / 2
    assert winners.seconds == 100, "the two winners train at the same time"
    assert trials.bytes == 0 and trials.peak_bytes == 2 * 5e6, "two trials at a time have checkpoints"
    assert winners.bytes == 2 * cost.bytes

    by_time = trials_of(found, tuning_settings(TuneBudget(trials=None, hours=0.05), num_seeds=0), inf)
    assert [each.num_runs for each in by_time.groups] == [3, 18], "a trial that has begun is finished"
    few = trials_of(found, tuning_settings(TuneBudget(trials=None, hours=0.05), num_seeds=0), 4)
    assert [each.num_runs for each in few.groups] == [3, 4], "the search space has four combinations"
    assert winners_of(found, tuning_settings(TuneBudget(trials=None, hours=0.05), num_seeds=0)).seconds == 0


def test_values_of_the_middle_lie_in_the_space() -> None:
    space = (
        (Interval("lr", 1e-5, 1e-3, log=True), 1e-4),
        (Interval("warmup", 0.0, 0.5), 0.25),
        (Interval("warmup", 0.12341, 0.12344), 0.12341),  # the rounded value, 0.123, is too small
        (Interval("epochs", 1, 6, is_whole=True, step=2), 3),
        (Interval("batch_size", 8, 11, is_whole=True), 10),
        (Choices("schedule", ("linear", "cosine", "constant")), "cosine"),
        (Choices("epochs", ("2",)), "2"),
    )
    for dimension, value in space:
        assert middle(dimension) == pytest.approx(value) if isinstance(value, float) else middle(dimension) == value
