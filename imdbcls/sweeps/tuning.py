"""Train the trials of a tuning study, with the same budget for each group.

The groups take turns. Several processes can work on the same study: each claims its trials (see `claims`). If the
process of a trial is dead, another process with the same study folder continues the trial from its checkpoint.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, Trial, TrialState

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.tuning_results import (
    SEARCH_ELSEWHERE,
    MostCommonClass,
    TrialResult,
    TuningResults,
    group_results,
)
from imdbcls.config.grid import GridGroup, composed
from imdbcls.config.schema import Config
from imdbcls.config.space import Dimension, described, size_of, trials_study
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.errors import UserError
from imdbcls.models.metrics import only_class
from imdbcls.printable import counted, duration
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runs.identity import config_hash
from imdbcls.runs.plan import FILE as PLAN_FILE
from imdbcls.runs.plan import has_plan
from imdbcls.runs.record import problem_of_trial
from imdbcls.runs.selection import TITLES, as_text, metric_of
from imdbcls.runtime.atomic import write_atomically
from imdbcls.sweeps import trial_lines
from imdbcls.sweeps.claims import POLL_SECONDS, ClaimedJobs, Claims
from imdbcls.sweeps.cluster import Cluster, Task
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.overview import end_line
from imdbcls.sweeps.slots import num_jobs
from imdbcls.sweeps.slurm_job import FOLDER, JobFiles, read_text
from imdbcls.sweeps.trials import (
    GRACE_SECONDS,
    MOST_COMMON,
    ONLY_CLASS,
    GroupTrials,
    Reporter,
    Storage,
    seconds_of,
    value_of,
)

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)

TrainTrial = Callable[[Config, Callable[[int, float], bool]], object]

MAX_ATTEMPTS = 2  # a trial that fails has a second attempt, unless its loss or gradient was NaN or infinite
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Claim:
    """A trial that this process has claimed."""

    group: GridGroup
    trials: GroupTrials
    trial: Trial
    config: Config
    lock: "FileLock"

    @property
    def name(self) -> str:
        return f"{self.group.name}, trial {self.trial.number + 1}"


class Tuning:
    """A tuning study: its groups, its trials, and the jobs of this process."""

    def __init__(
        self,
        groups: Sequence[GridGroup],
        space: Sequence[Dimension],
        settings: TuneSettings,
        train: TrainTrial,
        cluster: Cluster | None = None,
    ) -> None:
        config = groups[0].config
        self.study = config.study
        self.folder = Path(config.runs_dir) / trials_study(config.study)
        self.claims = Claims(self.folder)
        self.sweep = Sweep(is_tuning=True)
        self.groups = groups
        self._space = space
        self._settings = settings
        self._metric = config.metric
        self._train = train
        self._cluster = cluster
        self._jobs = ClaimedJobs(self.sweep)
        self._attempted: set[tuple[str, int]] = set()  # (group, number) of the trials that this process claimed
        with self.claims.exclusively():
            self._place = place_of(self.folder)
            self._trials = [self._open(group) for group in groups]
            self._require_budget()
            self._require_no_plan()

    def _open(self, group: GridGroup) -> GroupTrials:
        """Open the trials of a group. Raise UserError if earlier trials were proposed with other settings."""
        storage = Storage(self._settings.storage, self.folder)
        name = f"{trials_study(self.study)}: {group.name}"
        trials = GroupTrials(storage, name, group.name, self._metric, self._settings, self._space)
        settings = {**self._fixed_settings(), "config": config_hash(group.config)}
        recorded = trials.record_settings(settings)
        changed = [key for key in settings if settings[key] != recorded.get(key)]
        if changed:
            named = {"config": "configuration", "space": f"space ({spelled(recorded.get('space'))})"}
            what = " and ".join(named.get(key, f"{key} ({spelled(recorded.get(key))})") for key in changed)
            raise UserError(
                f"{self.folder} has trials of {group.name} with another {what}. Trials with different settings cannot "
                "be compared: repeat the earlier command, or choose another study=NAME."
            )
        return trials

    def _fixed_settings(self) -> dict[str, Any]:
        """Return the settings that all trials share, as plain values."""
        settings = self._settings
        shared = {"pruner": settings.pruner, "sampler": settings.sampler, "sampler_seed": settings.sampler_seed}
        return {**shared, "metric": self._metric, "space": dict(described(self._space))}

    def _require_budget(self) -> None:
        """Raise UserError if a group has already used more than the budget, else record the budget's hours."""
        budget = self._settings.budget
        for trials in self._trials:
            begun = trials.trials()
            if budget.max_trials is not None and len(begun) > budget.max_trials:
                raise UserError(
                    f"budget.trials={budget.max_trials} is too small: {len(begun)} trials of {trials.group} have begun "
                    f"in {self.folder}. Set budget.trials={len(begun)} or more."
                )
            used = sum(map(seconds_of, begun)) / 3600
            if budget.hours is not None and used >= budget.hours and not trials.has_had(budget.hours):
                raise UserError(
                    f"budget.hours={budget.hours:g} is too small: the trials of {trials.group} in {self.folder} have "
                    f"taken {used:.3g} hours. Set a larger budget.hours."
                )
        for trials in self._trials:
            trials.record_hours(budget.hours)

    def _require_no_plan(self) -> None:
        """Raise UserError if further trials could change winners that the plan of a study has fixed."""
        winners, plan = self._settings.winners, Path(self.groups[0].config.runs_dir) / self.study
        if not (winners.study and winners.num_seeds > 0 and has_plan(plan)):
            return
        if (trials := next((each for each in self._trials if each.has_room()), None)) is not None:
            raise UserError(
                f"{plan / PLAN_FILE} fixes the winners, but the budget allows further trials of {trials.group}, which "
                "could find another winner. Repeat the earlier command, or choose another study=NAME, or train only "
                "trials with winners.seeds=0."
            )

    def run(self) -> None:
        """Train trials until every group has used its budget, or until a signal stops the sweep."""
        self._log_start()
        while self.sweep.stopped_by is None:
            self._jobs.collect()
            with self.claims.exclusively():
                claims = self._claim_next()
            if claims and self._cluster is not None:
                self._submit(claims, self._cluster)
            elif claims:
                self._start(claims[0])
            elif self._jobs.are_running:
                self._jobs.wait()
            elif any(self._waits_for(trials) for trials in self._trials):
                time.sleep(POLL_SECONDS)
            else:
                break
        self._jobs.wait()

    def _claim_next(self) -> list[Claim]:
        """Claim the next trial. On a cluster, claim up to `jobs` trials, or one for each group if this is more."""
        jobs = self.groups[0].config.jobs
        limit = 1 if self._cluster is None else max(len(self.groups), 1 if jobs == "auto" else jobs)
        claims: list[Claim] = []
        while len(claims) < limit and (claim := self._claim()) is not None:
            claims.append(claim)
        return claims

    def _waits_for(self, trials: GroupTrials) -> bool:
        """Return whether the group has an open trial that this process has not attempted.

        Another process may still be training it.
        """
        open_trials = trials.open_trials()
        return any((trials.group, trial.number) not in self._attempted for trial in open_trials)

    def _claim(self) -> Claim | None:
        """Claim a trial whose process is dead, else the next trial of the group that has used the least budget.

        Return None if there is no trial to claim.
        """
        pairs = list(zip(self.groups, self._trials, strict=True))
        for group, trials in pairs:
            for frozen in trials.open_trials():
                is_here = frozen.user_attrs.get("place", self._place) == self._place
                if is_here and (group.name, frozen.number) not in self._attempted:
                    claim = self._claimed(group, trials, trials.continued(frozen))
                    if claim is not None:
                        return claim
        for group, trials in sorted(pairs, key=lambda pair: self._used(pair[1])):
            while trials.has_room():
                trial = trials.ask(self._place)
                claim = None if trial is None else self._claimed(group, trials, trial)
                if claim is not None:
                    return claim
        return None

    def _used(self, trials: GroupTrials) -> tuple[float, int]:
        """Return the time in seconds and the number of trials of a group. The time is 0 without a limit on hours."""
        begun = trials.trials()
        seconds = 0.0 if self._settings.budget.hours is None else sum(map(seconds_of, begun))
        return seconds, len(begun)

    def _claimed(self, group: GridGroup, trials: GroupTrials, trial: Trial) -> Claim | None:
        """Return the claim of a trial, or None if this process must not train it.

        This process must not train the trial if another process has just ended it, or is training this trial or a trial
        with the same values. If the values of the trial cannot be combined, record the trial as failed.
        """
        try:
            config = self._config_of(group, trial.params)
        except UserError as error:
            logger.error(f"{group.name}, trial {trial.number + 1}, fails: {error}")
            trials.tell(trial, TrialState.FAIL)
            return None
        lock = self.claims.claim(run_folder(config).path.name)
        if lock is None:
            return None
        if not trials.is_open(trial):  # another process ended the trial before this process locked it
            lock.release()
            return None
        self._attempted.add((group.name, trial.number))
        return Claim(group, trials, trial, config, lock)

    def _config_of(self, group: GridGroup, values: Mapping[str, Any]) -> Config:
        """Return the config of a trial. All trials have the same seed."""
        config = composed(group.loader, [*group.overrides, *self.overrides_of(values)])
        return config.with_changes(study=trials_study(self.study))

    def overrides_of(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides that set the keys of the search space to the values of a trial."""
        return [dimension.override(values[dimension.key]) for dimension in self._space]

    def _start(self, claim: Claim) -> None:
        """Train a claimed trial on this machine. If the trial already has a result, only record the result."""
        if self._begin(claim):
            folder = run_folder(claim.config)
            caption = f"{claim.name}  {trial_lines.values_text(claim.trial.params)}"
            on_end = partial(self._end, claim, folder)
            self._jobs.start(claim.config, self._train_of(claim), claim.lock, on_end, claim.name, caption)

    def _submit(self, claims: Sequence[Claim], cluster: Cluster) -> None:
        """Train claimed trials as one array of jobs, and wait for them. Trials that have a result are not trained."""
        begun = [claim for claim in claims if self._begin(claim)]
        tasks = []
        for claim in begun:
            folder = run_folder(claim.config)
            train = partial(self._train_of(claim), claim.config)
            tasks.append(Task(folder.path.name, train, folder.result, partial(self._end, claim, folder)))
        try:
            if tasks:
                cluster.run(self.sweep, self.folder, tasks, partial(show_life, begun))
        finally:
            for claim in begun:
                claim.lock.release()

    def _begin(self, claim: Claim) -> bool:
        """Record the run of a claimed trial. Return whether the trial must still be trained.

        If the trial already has a result, record it. Also record the failure of a Slurm job that ended while no command
        waited for it.
        """
        folder = run_folder(claim.config)
        files = JobFiles(self.folder / FOLDER, folder.path.name)
        reason = read_text(files.end)
        claim.trial.set_user_attr("run", folder.path.name)
        if folder.finished_trial() is not None:
            self._record(claim, folder, files.used_seconds() or 0.0)
            files.remove()
        elif reason:
            self._record_failure(claim, folder, files.used_seconds() or 0.0, f"failed: {reason}")
            files.remove()
        if not claim.trials.is_open(claim.trial):
            claim.lock.release()
            return False
        return True

    def _train_of(self, claim: Claim) -> Callable[[Config], None]:
        """Return the function that trains a claimed trial in its own process."""
        return partial(train_trial, train=self._train, reporter=claim.trials.reporter(claim.trial))

    def _end(self, claim: Claim, folder: RunFolder, outcome: Outcome) -> None:
        """Record the end of a trial's process, unless the trial has been replaced."""
        if not self._is_current(claim):
            return
        seconds = outcome.seconds or 0.0
        if outcome.state in ("done", "pruned"):
            self._record(claim, folder, seconds)
        elif outcome.state in ("failed", "killed"):
            was_logged = outcome.state == "failed" and self._cluster is None  # the trial's process logs its own error
            reason = outcome.state if was_logged else f"{outcome.state}: {outcome.detail}"
            self._record_failure(claim, folder, seconds, reason)
        else:  # after a signal, the trial stays open: the same command continues it
            add_seconds(claim.trial, seconds)
            self._log_end(claim, f"{outcome.state}: {outcome.detail}")

    def _is_current(self, claim: Claim) -> bool:
        """Return whether a trial is still open. If this process was suspended, the trial may have been replaced."""
        claim.trials.show_life(claim.trial)
        if claim.trials.is_open(claim.trial):
            return True
        logger.info(
            f"{claim.name}: no heartbeat for more than {duration(GRACE_SECONDS)}, so a new trial with the same values "
            "replaces this trial. If the replaced trial has a result, the new trial uses that result."
        )
        return False

    def _record(self, claim: Claim, folder: RunFolder, seconds: float) -> None:
        """Tell Optuna the result of a finished or pruned trial."""
        result = folder.finished_trial()
        assert result is not None and problem_of_trial(result) is None
        add_seconds(claim.trial, seconds)
        claim.trial.set_user_attr("epochs", result.get("epochs"))
        record_classes(claim.trial, result)
        state = TrialState.PRUNED if result["status"] == "pruned" else TrialState.COMPLETE
        claim.trials.tell(claim.trial, state, float(result[f"val/{metric_of(result)}"]))
        self._log_end(claim)

    def _record_failure(self, claim: Claim, folder: RunFolder, seconds: float, reason: str) -> None:
        """Count a failed attempt. After the last attempt, record the trial as failed; else leave the trial open.

        After a NonFiniteError, this attempt is the last.
        """
        add_seconds(claim.trial, seconds)
        attempts = int(claim.trial.user_attrs.get("attempts", 0)) + 1
        claim.trial.set_user_attr("attempts", attempts)
        error = str((folder.result() or {}).get("error", ""))
        if error.startswith("NonFiniteError") or attempts >= MAX_ATTEMPTS:
            claim.trials.tell(claim.trial, TrialState.FAIL)
        self._log_end(claim, reason)

    def _log_start(self) -> None:
        """Log the budget, the metric, and the number of trials that ended earlier."""
        num_ended = sum(len(trial_lines.ended(trials)) for trials in self._trials)
        limit = trial_lines.limit_text(self._settings.budget, size_of(self._space))
        done = f"; {counted(num_ended, 'trial')} ended earlier" if num_ended else ""
        logger.info(
            f"{self.folder}: {counted(len(self.groups), 'group')} with {limit} each, compared by validation "
            f"{TITLES[self._metric]}{done}"
        )

    def _log_end(self, claim: Claim, reason: str = "") -> None:
        """Log the end of a trial's process: the score, or the reason why there is none."""
        trial = next(each for each in claim.trials.trials() if each.number == claim.trial.number)
        budget, jobs = self._settings.budget, num_jobs(self.groups[0].config)
        left = None if self.sweep.stopped_by is not None else trial_lines.seconds_left(self._trials, budget, jobs)
        score = reason or trial_lines.score_text(claim.trials, trial, self._metric)
        number = trial_lines.number_of(self._trials, budget)
        detail = f"{score}  {trial_lines.values_text(trial.params)}"
        logger.info(end_line(number, claim.name, detail, seconds_of(trial), left))

    @property
    def num_open(self) -> int:
        """The number of trials that have begun and are not finished."""
        return sum(len(trials.open_trials()) for trials in self._trials)

    @property
    def best(self) -> list[tuple[GridGroup, FrozenTrial | None]]:
        """Each group with its best finished trial; None if no trial has finished."""
        return [(group, trials.best()) for group, trials in zip(self.groups, self._trials, strict=True)]

    def log_best(self) -> None:
        """Log the best trial of each group."""
        for group, trial in self.best:
            if trial is not None:
                score = as_text(self._metric, value_of(trial))
                values = trial_lines.values_text(trial.params)
                logger.info(f"{group.name}: trial {trial.number + 1} is the best, validation {score}, with {values}")
                if (only := trial.user_attrs.get(ONLY_CLASS)) is not None:
                    logger.warning(
                        f"{group.name}: the best trial predicts the class {only!r} for all validation documents. "
                        f"{SEARCH_ELSEWHERE}"
                    )

    def winners(self) -> list[GridGroup]:
        """Return each group that has a finished trial, with the values of its best trial as overrides."""
        found = []
        for group, trial in self.best:
            if trial is not None:
                overrides = (*group.overrides, *self.overrides_of(trial.params))
                config = composed(group.loader, overrides)
                found.append(replace(group, overrides=overrides, config=config))
        return found

    def results(self) -> TuningResults:
        """Return all trials, and the expected best value for each number of trials."""
        metric, budget = METRICS[self._metric], self._settings.budget
        groups = [
            (group.name, group.overrides, tuple(map(result_of, trials.trials())))
            for group, trials in zip(self.groups, self._trials, strict=True)
        ]
        settings = {**self._fixed_settings(), "budget": {"trials": budget.max_trials, "hours": budget.hours}}
        every = [trial for trials in self._trials for trial in trials.trials()]
        return TuningResults(self.study, metric, settings, group_results(groups, metric), most_common_class(every))


def train_trial(config: Config, train: TrainTrial, reporter: Reporter) -> None:
    """Train a trial, and report its epochs to Optuna."""
    with reporter.opened() as report:
        train(config, report)


def show_life(claims: Sequence[Claim]) -> None:
    """Show that the trials are not abandoned while their jobs wait in Slurm's queue."""
    for claim in claims:
        claim.trials.show_life(claim.trial)


def result_of(trial: FrozenTrial) -> TrialResult:
    state = STATES.get(trial.state, "open")
    value = value_of(trial) if state in ("done", "pruned") else None
    epochs = trial.user_attrs.get("epochs") or max(trial.intermediate_values, default=0)
    run = str(trial.user_attrs.get("run", ""))
    only = trial.user_attrs.get(ONLY_CLASS)
    return TrialResult(trial.number + 1, state, dict(trial.params), value, seconds_of(trial), epochs, run, only)


def record_classes(trial: Trial, result: Mapping[str, Any]) -> None:
    """Record the most common class of the validation documents, and the predicted class if there is only one."""
    confusion, label_names = result.get("val/confusion_matrix"), result["label_names"]
    if confusion is None:  # a trial of an earlier version
        return
    counts_C = [sum(row) for row in confusion]
    most = max(counts_C)
    trial.set_user_attr(MOST_COMMON, [label_names[counts_C.index(most)], most / sum(counts_C)])
    if (only := only_class(confusion, label_names)) is not None:
        trial.set_user_attr(ONLY_CLASS, only)


def most_common_class(trials: Sequence[FrozenTrial]) -> MostCommonClass | None:
    """Return the most common class of the validation documents, if it is the same for all trials that recorded it."""
    recorded = {tuple(trial.user_attrs[MOST_COMMON]) for trial in trials if MOST_COMMON in trial.user_attrs}
    return MostCommonClass(*recorded.pop()) if len(recorded) == 1 else None


def add_seconds(trial: Trial, seconds: float) -> None:
    trial.set_user_attr("seconds", float(trial.user_attrs.get("seconds", 0.0)) + seconds)


def place_of(folder: Path) -> str:
    """Return the random id of the trials' folder, which distinguishes it from the folders on other machines."""
    path = folder / ".place"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8").strip()


def spelled(value: Any) -> str:
    """Return a setting as text for a message."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {dict(each)}" for key, each in value.items())
    return str(value)
