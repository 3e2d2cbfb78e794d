"""Train a planned study in rounds: test the groups after each round, and then train only undecided groups.

The decisions are a function of the plan and of the runs on disk (`comparison.race`). If a killed command is repeated,
it therefore continues with the same decisions, except that it trains failed runs again.
"""

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imdbcls.config.grid import GridGroup
from imdbcls.config.study_settings import BudgetSettings, StudySettings
from imdbcls.errors import UserError
from imdbcls.printable import duration
from imdbcls.runs.plan import Plan
from imdbcls.sweeps.cluster import Cluster, Task
from imdbcls.sweeps.in_child import in_child
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.multirun import Train, start_job
from imdbcls.sweeps.planning import fix_plan, locked, make_plan
from imdbcls.sweeps.publishing import publish_study
from imdbcls.sweeps.slurm_job import FOLDER, JobFiles
from imdbcls.sweeps.study_report import StudyReport
from imdbcls.sweeps.study_runs import PlannedRun, StudyRuns
from imdbcls.sweeps.wall_times import WallTimes

if TYPE_CHECKING:
    from imdbcls.comparison.race import Round

SECONDS_PER_HOUR = 3600.0


def run_study(
    groups: Sequence[GridGroup], settings: StudySettings, train: Train, cluster: Cluster | None = None
) -> int:
    """Train and test a study until it is over or its budget is used up. Return the exit code of the command.

    With a `cluster`, the runs of each round are one array of jobs; otherwise they are trained on this machine.
    """
    study = groups[0].config.folder.parent
    wanted = make_plan(groups, settings)
    with locked(study):
        plan = fix_plan(study, wanted)
        by_hash = {group.group_hash: group for group in groups}
        in_order = [by_hash[planned.group_hash] for planned in plan.groups]
        adaptive = AdaptiveStudy(study, StudyRuns(plan, in_order, WallTimes(study)), settings.budget, train, cluster)
        code = adaptive.run()
    if adaptive.sweep.stopped_by is None and adaptive.runs.num_finished:
        publish_study(study, groups[0].config, adaptive.sweep.outcomes)
    return code


@dataclass
class AdaptiveStudy:
    """A planned study that this command trains and tests.

    `failed` maps the index of a group in the plan to a message about its failed run. Such a group gets no further runs.
    """

    folder: Path
    runs: StudyRuns
    budget: BudgetSettings
    train: Train
    cluster: Cluster | None = None
    sweep: Sweep = field(default_factory=Sweep)
    failed: dict[int, str] = field(default_factory=dict)
    _started: list[PlannedRun] = field(default_factory=list)  # in the order of `Sweep.outcomes`
    _recorded: set[int] = field(default_factory=set)  # indices of the recorded outcomes

    @property
    def plan(self) -> Plan:
        return self.runs.plan

    def run(self) -> int:
        """Train rounds until the study is over, the budget is used up or a signal arrives. Return the exit code."""
        self.record_ended_jobs()
        report = StudyReport(self.folder, self.runs)
        rounds = self.look()
        report.log_start(rounds)
        stopped: str | None = None
        while not self.is_over(rounds):
            num_seeds = self.plan.looks[len(rounds)]
            missing = self.runs.missing(self.running(rounds), num_seeds)
            stopped = self.over_budget(missing)
            if stopped is None:
                report.log_training(len(rounds) + 1, missing)
                stopped = self.train_round(missing)
            if stopped is not None:
                break
            if len(self.running(rounds)) < 2:
                continue
            looked = self.look()
            if len(looked) == len(rounds):
                raise UserError(self.unusable(num_seeds))
            rounds = looked
            if not rounds[-1].is_over:
                report.log_round(rounds)
        report.log_end(rounds, self.failed, stopped)
        if self.sweep.stopped_by is not None:
            return 128 + self.sweep.stopped_by
        return 1 if self.failed else 0

    def running(self, rounds: Sequence["Round"]) -> list[int]:
        """Return the indices of the groups that the next round trains."""
        running = rounds[-1].running if rounds else range(len(self.plan.groups))
        return [group for group in running if group not in self.failed]

    def is_over(self, rounds: Sequence["Round"]) -> bool:
        return (bool(rounds) and rounds[-1].is_over) or len(self.running(rounds)) < 2

    def look(self) -> list["Round"]:
        """Return the planned looks (interim tests) that have enough finished runs, recomputed from the run folders."""
        if self.runs.num_finished == 0:
            return []
        return in_child(partial(replay, self.folder, self.plan, frozenset(self.failed)))

    def over_budget(self, missing: Sequence[PlannedRun]) -> str | None:
        """Return a sentence if the missing runs of a round would exceed the budget, else None."""
        budget, done, used = self.budget, self.runs.num_finished, self.runs.total_seconds
        needs = f"The next round needs {len(missing)} run{'s' if len(missing) > 1 else ''}"
        if budget.runs is not None and done + len(missing) > budget.runs:
            return f"{needs}, and {done} runs are finished, but budget.runs={budget.runs}. {larger('runs')}"
        expected = self.runs.expected_seconds(Counter(run.group for run in missing))
        if budget.hours is not None and expected is not None and used + expected > budget.hours * SECONDS_PER_HOUR:
            return (
                f"{needs} (about {duration(expected)} in total), and the study has used {duration(used)}, but "
                f"budget.hours={budget.hours:g}. {larger('hours')}"
            )
        return None

    def train_round(self, missing: Sequence[PlannedRun]) -> str | None:
        """Train the runs of one round. Return a sentence if the study must stop before the round is complete."""
        try:
            stopped = self.start_runs(missing) if self.cluster is None else self.submit_runs(missing, self.cluster)
        finally:
            self.sweep.wait()
        self.record_outcomes()
        if self.sweep.stopped_by is not None:
            name = signal.Signals(self.sweep.stopped_by).name
            return f"The study was stopped by {name}. Repeat the command to continue."
        return stopped

    def start_runs(self, missing: Sequence[PlannedRun]) -> str | None:
        """Start the runs in order, at most `jobs` at a time. Return a sentence if the hours are used up, else None.

        Start no further run after a signal.
        """
        self.sweep.num_expected += sum(run.group not in self.failed for run in missing)
        for run in missing:
            hours = self.budget.hours
            if hours is not None and self.runs.total_seconds >= hours * SECONDS_PER_HOUR:
                return f"budget.hours={hours:g} is used up. {larger('hours')}"
            if self.sweep.stopped_by is not None:
                return None
            self.runs.require_same_documents()
            if run.group not in self.failed:  # after a failed run, the next runs of its group would probably fail, too
                self._started.append(run)
                start_job(self.sweep, self.runs.config(run), self.runs.folder(run), self.train)
                self.record_outcomes()
        return None

    def submit_runs(self, missing: Sequence[PlannedRun], cluster: Cluster) -> str | None:
        """Train the runs as one array of jobs. Return None: the array is not stopped, even if the hours are used up."""
        runs = [run for run in missing if run.group not in self.failed]
        self._started += runs
        tasks = [
            Task(folder.path.name, partial(self.train, self.runs.config(run)), folder.result, self.on_end)
            for run, folder in ((run, self.runs.folder(run)) for run in runs)
        ]
        cluster.run(self.sweep, self.folder, tasks)
        self.runs.require_same_documents()
        return None

    def record_ended_jobs(self) -> None:
        """Record the running times of the Slurm jobs that ended while no command was waiting for them."""
        for run in self.runs.planned():
            files = JobFiles(self.folder / FOLDER, self.runs.folder(run).path.name)
            seconds = files.uncollected_seconds()
            if seconds is not None:
                self.runs.times.add(files.name, seconds)
                files.remove()

    def on_end(self, _outcome: Outcome) -> None:
        self.record_outcomes()

    def record_outcomes(self) -> None:
        """Record the time of each run that has ended since the last call, and the group of each failed run."""
        for index, outcome in enumerate(self.sweep.outcomes):
            if index in self._recorded or outcome.state == "running":
                continue
            self._recorded.add(index)
            run = self._started[index]
            seconds = outcome.seconds if outcome.share is None else outcome.share
            if seconds is not None:
                self.runs.times.add(outcome.name, seconds)
            if outcome.state == "done":
                self.runs.result(run)
            elif self.sweep.stopped_by is None:
                self.failed[run.group] = f"{outcome.name} {outcome.state}: {outcome.detail}"

    def unusable(self, num_seeds: int) -> str:
        """Return an error message for a study in which `compare` would leave out a finished run."""
        return (
            f"{self.folder} cannot be tested after {num_seeds} seeds per group, because a finished run cannot be "
            f"compared with the other runs. python -m imdbcls.compare {self.folder} names the run and the reason."
        )


def larger(key: str) -> str:
    return f"Repeat the command with a larger budget.{key} to continue."


def replay(folder: Path, plan: Plan, failed: frozenset[int]) -> list["Round"]:
    """Return the planned looks (interim tests) for which a study folder has enough finished runs."""
    from imdbcls.comparison.metrics import METRICS
    from imdbcls.comparison.planned import planned_study
    from imdbcls.comparison.study import read_study

    return list(planned_study(read_study(folder), plan, METRICS[plan.metric], failed).rounds)
