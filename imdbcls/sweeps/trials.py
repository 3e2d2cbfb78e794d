"""The trials of a tuning study in Optuna's storage: proposals, reports of epochs, and results.

Each group is an Optuna study. Several processes, possibly on several machines, may propose, train and report its
trials.
"""

import contextlib
import hashlib
import logging
import math
import random
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from imdbcls.config.space import Dimension, Interval, size_of
from imdbcls.config.tune_settings import TuneSettings
from imdbcls.errors import UserError
from imdbcls.runs.selection import LOWER_IS_BETTER

JOURNAL = "optuna.journal"  # in the folder of the trials
HEARTBEAT_SECONDS = 60  # between two heartbeats of a trial in an SQL database
GRACE_SECONDS = 300  # after this time without a heartbeat, another process may train the trial
REDUCTION_FACTOR = 3  # with pruner=asha, the best third of the trials continues
SETTINGS = "settings"  # attribute of an Optuna study
HOURS = "hours"  # attribute of an Optuna study: the last `budget.hours`
ONLY_CLASS = "only_class"  # attribute of a trial: the class that it predicts for all validation documents, if any
MOST_COMMON = "most_common_class"  # attribute of a trial: name and share of the most common validation class
PRUNED = "pruned"  # attribute of a trial: the epoch after which it is pruned
SURPLUS = "surplus"  # attribute of a trial that is not trained, because it repeats a trial or exceeds the budget

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")
logger = logging.getLogger(__name__)

Combination = frozenset[tuple[str, Any]]


@dataclass(frozen=True)
class Storage:
    """The storage of the trials: an SQL database, or a journal file in `folder`. Each process opens the storage."""

    url: str | None
    folder: Path

    def open(self) -> BaseStorage:
        """Open or create the storage. Raise UserError if the database cannot be used."""
        if self.url is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
        try:
            return RDBStorage(
                self.url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=propose_again,
            )
        except Exception as error:  # the database's driver raises its own errors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"storage: the database cannot be opened ({reason}). Check its URL, or set storage=null to use a file."
            ) from error


def propose_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a new trial with the values of a trial whose process is dead, so that another process can train it."""
    study.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, "replaces": trial.number})


@dataclass(frozen=True)
class Reporter:
    """Report the epochs of one trial from its training process, and ask whether to prune it (`ShouldPrune`)."""

    storage: Storage
    study_name: str
    trial_id: int
    pruner: str

    @contextlib.contextmanager
    def opened(self) -> Iterator["EpochReport"]:
        """Open the storage in this process; with an SQL database, also record heartbeats until the block ends."""
        storage = self.storage.open()
        study = optuna.load_study(study_name=self.study_name, storage=storage, pruner=make_pruner(self.pruner))
        ended = threading.Event()
        if isinstance(storage, RDBStorage):
            threading.Thread(target=beat, args=(storage, self.trial_id, ended), daemon=True).start()
        try:
            yield EpochReport(Trial(study, self.trial_id))
        finally:
            ended.set()


@dataclass(frozen=True)
class EpochReport:
    """Report an epoch's metric, and return whether the trial is pruned."""

    trial: Trial

    def __call__(self, epoch: int, value: float) -> bool:
        if PRUNED in self.trial.user_attrs:  # set by an earlier process, which was killed before it could end the trial
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed run may report its last epoch again, which Optuna ignores
            self.trial.report(value, epoch)
        if self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, epoch)
            return True
        return False


def beat(storage: RDBStorage, trial_id: int, ended: threading.Event) -> None:
    """Record heartbeats, which show that the trial's process is alive, until `ended` is set."""
    while not ended.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(Exception):  # the database may be unavailable for a moment
            storage.record_heartbeat(trial_id)


class GroupTrials:
    """The trials of one group."""

    def __init__(
        self, storage: Storage, name: str, group: str, metric: str, settings: TuneSettings, space: Sequence[Dimension]
    ) -> None:
        self.group = group
        self._storage = storage
        self._settings = settings
        self._space = space
        self.size = size_of(space)  # the largest number of different trials
        self._opened = storage.open()
        self._study = optuna.create_study(
            storage=self._opened,
            study_name=name,
            direction="minimize" if metric in LOWER_IS_BETTER else "maximize",
            load_if_exists=True,
        )

    def record_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the recorded settings of earlier trials. If there are none, record and return `settings`."""
        recorded = self._study.user_attrs.get(SETTINGS)
        if recorded is None:
            self._study.set_user_attr(SETTINGS, dict(settings))
            return settings
        return recorded

    def has_had(self, hours: float) -> bool:
        """Return whether an earlier command recorded a budget of at most `hours`.

        If so, every recorded trial began before `hours` were used up, even if all trials together took longer.
        """
        earlier = self._study.user_attrs.get(HOURS)
        return earlier is not None and earlier <= hours

    def record_hours(self, hours: float | None) -> None:
        """Record the hours in the budget of this command. Do nothing if the budget has no hours."""
        if hours is not None:
            self._study.set_user_attr(HOURS, hours)

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that count towards the budget, in order: all except replaced and surplus trials."""
        every = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("replaces") for trial in every}
        return [trial for trial in every if trial.number not in replaced and SURPLUS not in trial.user_attrs]

    @property
    def max_trials(self) -> int | None:
        """The largest number of trials in the budget and in the search space; None if only hours limit it."""
        limit = self._settings.budget.max_trials
        most = min(self.size, math.inf if limit is None else limit)
        return None if most == math.inf else int(most)

    def has_room(self) -> bool:
        """Return whether the budget and the search space allow another trial, or a trial waits to be trained again."""
        trials, budget = self.trials(), self._settings.budget
        if any(trial.state is TrialState.WAITING for trial in trials):
            return True
        if self.size < math.inf and len(set(map(combination, trials))) >= self.size:
            return False
        if budget.max_trials is not None:
            return len(trials) < budget.max_trials
        assert budget.hours is not None
        return sum(seconds_of(trial) for trial in trials) < 3600 * budget.hours

    def ask(self, place: str) -> Trial | None:
        """Begin the next trial and return it, or return None.

        The result is None if other machines have just used up the budget. It is also None if the sampler repeats the
        values of an earlier trial: the next call then begins a trial with random values that no trial has.

        `place` is the id of the folder in which the trial is trained (see `tuning.place_of`).
        """
        trial = self._study.ask()
        earlier = [each for each in self.trials() if each.number < trial.number]
        limit = self._settings.budget.max_trials
        if limit is not None and len(earlier) >= limit:
            self._withdraw(trial)
            return None
        self.complete_proposal(trial)
        tried = set(map(combination, earlier))
        if combination(trial) in tried:
            self._withdraw(trial)
            if len(tried) < self.size:
                self._study.enqueue_trial(self._untried(tried, trial.number))
            return None
        trial.set_user_attr("place", place)
        self.show_life(trial)
        return trial

    def _withdraw(self, trial: Trial) -> None:
        trial.set_user_attr(SURPLUS, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def _untried(self, tried: Set[Combination], number: int) -> dict[str, Any]:
        """Return random values of a finite search space that no trial has. The values depend on the trial's number."""
        generator = random.Random(f"{self._settings.sampler_seed} {self.group} {number}")
        while True:
            values = {each.key: each.value_at(generator.randrange(int(each.size))) for each in self._space}
            if as_combination(values) not in tried:
                return values

    def complete_proposal(self, trial: Trial) -> None:
        """Propose a value for each key that has none.

        The sampler's seed depends on the group, the trial and the key. Every process therefore makes the same proposal,
        given the same earlier trials.
        """
        for dimension in self._space:
            self._study.sampler = make_sampler(self._settings, f"{self.group} {trial.number} {dimension.key}")
            suggest(trial, dimension)

    def open_trials(self) -> list[FrozenTrial]:
        """Return the trials that have begun but not ended. The process of such a trial may be dead.

        In an SQL database, trials without a heartbeat for `GRACE_SECONDS` are first replaced by new trials.
        """
        if isinstance(self._opened, RDBStorage):
            fail_stale_trials(self._study)
        return [trial for trial in self.trials() if trial.state is TrialState.RUNNING]

    def is_open(self, trial: Trial) -> bool:
        """Return whether no process has recorded the end of the trial yet."""
        return any(each.number == trial.number for each in self.open_trials())

    def continued(self, trial: FrozenTrial) -> Trial:
        """Return a trial that another process has begun, so that this process can continue it."""
        found = Trial(self._study, trial._trial_id)
        self.complete_proposal(found)  # the other process may have been killed while it proposed values
        self.show_life(found)
        return found

    def show_life(self, trial: Trial) -> None:
        if isinstance(self._opened, RDBStorage):
            self._opened.record_heartbeat(trial._trial_id)

    def reporter(self, trial: Trial) -> Reporter:
        return Reporter(self._storage, self._study.study_name, trial._trial_id, self._settings.pruner)

    def tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        """Record the end of a trial. `value` is the best validation metric of a finished or pruned trial."""
        if state is TrialState.PRUNED and value is not None:
            trial.set_user_attr("value", value)
            self._study.tell(trial, state=state)
        else:
            self._study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)

    def best(self) -> FrozenTrial | None:
        """Return the first finished trial with the best value, or None if no trial has finished."""
        finished = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        sign = 1 if self._study.direction is optuna.study.StudyDirection.MINIMIZE else -1
        return min(finished, key=lambda trial: sign * value_of(trial), default=None)


def combination(trial: FrozenTrial | Trial) -> Combination:
    return as_combination(trial.params)


def as_combination(values: Mapping[str, Any]) -> Combination:
    """Return the values of a trial in a form that can be compared. Steps of an interval have rounding errors."""
    return frozenset((key, f"{value:.12g}" if isinstance(value, float) else value) for key, value in values.items())


def value_of(trial: FrozenTrial) -> float:
    """Return the best validation metric of a finished or pruned trial."""
    value = trial.value if trial.state is TrialState.COMPLETE else trial.user_attrs.get("value")
    return float("nan") if value is None else float(value)


def seconds_of(trial: FrozenTrial) -> float:
    """Return the time that a trial has taken, over all its processes."""
    return float(trial.user_attrs.get("seconds", 0.0))


def suggest(trial: Trial, dimension: Dimension) -> None:
    """Propose a value for one key, unless the trial already has one."""
    if not isinstance(dimension, Interval):
        trial.suggest_categorical(dimension.key, dimension.values)
    elif dimension.is_whole:
        step = 1 if dimension.step is None else int(dimension.step)
        trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    else:
        trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def make_sampler(settings: TuneSettings, place: str) -> optuna.samplers.BaseSampler:
    """Return a sampler whose random numbers depend only on `sampler_seed` and `place` (any string)."""
    digest = hashlib.sha256(f"{settings.sampler_seed} {place}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """Return the pruner `name`, which compares a trial with the other trials of its group; "none" never prunes."""
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION_FACTOR)
    return optuna.pruners.NopPruner()
