"""Train the best configuration of each group again, with new seeds, as ordinary runs that are evaluated on test."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from imdbcls.config.grid import GridGroup
from imdbcls.config.schema import Config
from imdbcls.config.study_settings import default_study_settings
from imdbcls.runs.folder import run_folder
from imdbcls.sweeps.adaptive import run_study
from imdbcls.sweeps.claims import POLL_SECONDS, ClaimedJobs, Claims
from imdbcls.sweeps.cluster import Cluster, Task
from imdbcls.sweeps.jobs import Outcome, Sweep
from imdbcls.sweeps.multirun import Train
from imdbcls.sweeps.overview import SharedMessages


def study_winners(winners: Sequence[GridGroup], max_seeds: int, train: Train, cluster: Cluster | None) -> int:
    """Train the winners with at most `max_seeds` new seeds each, as a study with the defaults of `conf/study.yaml`.

    Return the exit code of the study.
    """
    defaults = default_study_settings()
    first = min(max_seeds, defaults.seeds.first)
    seeds = defaults.seeds.model_copy(update={"start": first_seed(winners), "max": max_seeds, "first": first})
    return run_study(winners, defaults.model_copy(update={"seeds": seeds}), train, cluster)


def train_winners(
    winners: Sequence[GridGroup],
    num_seeds: int,
    claims: Claims,
    train: Train,
    cluster: Cluster | None,
    messages: SharedMessages | None = None,
) -> Sweep:
    """Train the winners with new seeds; other processes may train some of the runs. Return this process's sweep.

    With a `cluster`, the runs are one array of jobs. The trials have already shown `messages`, and the runs do not
    repeat them.
    """
    sweep, first = Sweep(messages), first_seed(winners)
    jobs, pending = ClaimedJobs(sweep), [each.config_of(first + i) for i in range(num_seeds) for each in winners]
    sweep.num_expected = len(pending)
    while pending and sweep.stopped_by is None:
        if cluster is None:
            started = [config for config in pending if start_or_report(config, sweep, jobs, claims, train)]
        else:
            started = submit_or_report(pending, sweep, cluster, claims, train)
        pending = [config for config in pending if config not in started]
        if jobs.are_running:
            jobs.wait()
        elif pending and not started:
            time.sleep(POLL_SECONDS)  # another process trains the pending runs
    jobs.wait()
    return sweep


def first_seed(winners: Sequence[GridGroup]) -> int:
    """Return the smallest seed that is larger than the seeds of all trials."""
    return 1 + max(winner.config.seed for winner in winners)


def start_or_report(config: Config, sweep: Sweep, jobs: ClaimedJobs, claims: Claims, train: Train) -> bool:
    """Start a run that is not complete, or report a complete run.

    Return False if another process trains the run, or if a signal has stopped the sweep.
    """
    folder = run_folder(config)
    sweep.add_to_study(folder.study, config)
    if sweep.stopped_by is not None:
        return False
    lock = claims.claim(folder.path.name)
    if lock is None:
        return False
    if folder.complete() is None:
        jobs.start(config, train, lock, lambda outcome: None)
    else:
        sweep.report(folder.path.name, partial(train, config), folder.result)
        lock.release()
    return True


def submit_or_report(
    pending: Sequence[Config], sweep: Sweep, cluster: Cluster, claims: Claims, train: Train
) -> list[Config]:
    """Train the incomplete runs as one array of jobs, and report the complete runs. Return the claimed runs."""
    claimed, tasks = [], []
    with ExitStack() as stack:
        for config in pending:
            folder = run_folder(config)
            sweep.add_to_study(folder.study, config)
            lock = claims.claim(folder.path.name)
            if lock is None:
                continue
            stack.callback(lock.release)
            claimed.append(config)
            if folder.complete() is None:
                tasks.append(Task(folder.path.name, partial(train, config), folder.result, ignore))
            else:
                sweep.report(folder.path.name, partial(train, config), folder.result)
        if tasks:
            cluster.run(sweep, run_folder(claimed[0]).study, tasks)
    return claimed


def ignore(_outcome: Outcome) -> None:
    """Do nothing, because `Sweep.outcomes` already contains the outcome."""
