"""The trials of a tuning study whose Slurm jobs end while no command waits for them."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
import pytest

from imdbcls import tune
from imdbcls.comparison.tuning_results import TrialResult
from imdbcls.sweeps import trials
from imdbcls.sweeps.cluster import Cluster, Task
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.slurm_job import FOLDER, JobFiles
from imdbcls.sweeps.tuning import Tuning

COMMAND = ("head=cls", "backbone=tiny", "data=sample", "tracker=none", "study=s", "lr=1e-3,1e-2", "budget.trials=1")


class InterruptedCluster:
    """A cluster whose command is stopped after it has submitted its jobs."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def run(self, sweep: Sweep, _study: Path, tasks: Sequence[Task], _on_wait: Callable[[], None]) -> None:
        self.submitted = [task.name for task in tasks]
        for task in tasks:
            sweep.outcomes.append(Outcome(task.name, "interrupted", "job 7 continues on the cluster"))
            task.on_end(sweep.outcomes[-1])
        sweep.stopped_by = 15


def train_nothing(*_arguments: Any, **_named: Any) -> Mapping[str, Any]:
    raise AssertionError("the jobs of this cluster do not start")


def run_command() -> tuple[list[str], TrialResult]:
    """Run a tuning command. Return the names of the submitted runs, and the only trial."""
    asked, cluster = tune.read_command(COMMAND), InterruptedCluster()
    tuning = Tuning(asked.grid.groups, asked.grid.space, asked.settings, train_nothing, cast(Cluster, cluster))
    tuning.run()
    ((trial,),) = (group.trials for group in tuning.results().groups)
    return cluster.submitted, trial


def test_the_error_and_the_time_of_an_unobserved_job_are_recorded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    messages: list[str] = []
    monkeypatch.setattr("imdbcls.sweeps.tuning.logger.info", messages.append)
    (name,), trial = run_command()
    assert (trial.state, trial.seconds) == ("open", 0.0)
    for attempt in (1, 2):
        files = JobFiles(Path("runs/s-trials") / FOLDER, name)
        files.folder.mkdir(parents=True, exist_ok=True)
        files.seconds.write_text("5.0")
        files.end.write_text("ValueError: the mistake of a head")
        messages.clear()
        submitted, trial = run_command()
        assert sum("cls, trial 1  failed: ValueError: the mistake of a head" in each for each in messages) == 1
        assert not files.end.exists() and not files.seconds.exists()
        assert trial.seconds == 5.0 * attempt
        # A trial whose first attempt has failed is trained once more.
        assert (trial.state, submitted) == (("open", [name]) if attempt == 1 else ("failed", []))


class SuspendedCluster(InterruptedCluster):
    """A cluster on which no heartbeat is recorded while the job runs, as if the command were suspended."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def run(self, sweep: Sweep, _study: Path, tasks: Sequence[Task], _on_wait: Callable[[], None]) -> None:
        self.submitted += [task.name for task in tasks]
        if len(self.submitted) == 1:
            time.sleep(2.5)
            study = optuna.load_study(study_name="s-trials: cls", storage=trials.Storage(self.url, Path()).open())
            optuna.storages.fail_stale_trials(study)  # as another machine does
        for task in tasks:
            sweep.outcomes.append(Outcome(task.name, "failed", "the loss is NaN"))
            task.on_end(sweep.outcomes[-1])


def test_a_trial_that_was_replaced_during_a_suspension_is_trained_as_the_new_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an SQL database, a command that was suspended finds that its own trial has been replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(trials, "GRACE_SECONDS", 1)
    messages: list[str] = []
    monkeypatch.setattr("imdbcls.sweeps.tuning.logger.info", messages.append)
    url = "sqlite:///trials.db"
    asked, cluster = tune.read_command((*COMMAND, f"storage={url}")), SuspendedCluster(url)
    tuning = Tuning(asked.grid.groups, asked.grid.space, asked.settings, train_nothing, cast(Cluster, cluster))
    tuning.run()
    assert len(cluster.submitted) == 2 and len(set(cluster.submitted)) == 1, "the new trial has the same run"
    assert sum("cls, trial 1: no heartbeat for more than" in each for each in messages) == 1
    assert sum("cls, trial 2  failed: the loss is NaN" in each for each in messages) == 1
