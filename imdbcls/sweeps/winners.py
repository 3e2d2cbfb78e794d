"""Train the best configuration of each group again, with new seeds, as ordinary runs that are evaluated on test."""

import time
from collections.abc import Sequence
from functools import partial

from imdbcls.config.grid import GridGroup, composed
from imdbcls.config.schema import Config
from imdbcls.runs.folder import run_folder
from imdbcls.sweeps.claims import POLL_SECONDS, ClaimedJobs, Claims
from imdbcls.sweeps.jobs import Sweep
from imdbcls.sweeps.multirun import Train


def winner_configs(winners: Sequence[tuple[GridGroup, list[str]]], num_seeds: int) -> list[Config]:
    """Return the runs of the winners. Their seeds follow the seed of the trials, so no trial used them."""
    return [
        composed(group.loader, [*overrides, f"seed={group.config.seed + offset}"])
        for offset in range(1, num_seeds + 1)
        for group, overrides in winners
    ]


def train_winners(configs: Sequence[Config], claims: Claims, train: Train) -> Sweep:
    """Train the runs that are not complete, together with other processes that do the same; return their outcomes."""
    sweep = Sweep()
    jobs, pending = ClaimedJobs(sweep), list(configs)
    while pending and sweep.stopped_by is None:
        started = [config for config in pending if start_or_report(config, sweep, jobs, claims, train)]
        pending = [config for config in pending if config not in started]
        if jobs.are_running:
            jobs.wait()
        elif pending and not started:
            time.sleep(POLL_SECONDS)  # another process trains them
    jobs.wait()
    return sweep


def start_or_report(config: Config, sweep: Sweep, jobs: ClaimedJobs, claims: Claims, train: Train) -> bool:
    """Start a run if it is not complete, or report it. Return False if another process trains it now."""
    folder = run_folder(config)
    sweep.studies.add(folder.study)
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
