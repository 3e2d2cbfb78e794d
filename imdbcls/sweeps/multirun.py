"""Run the training command: a single run, or the jobs of `--multirun` in separate processes (see `jobs`)."""

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf import DictConfig

from imdbcls.config import commandline
from imdbcls.errors import UserError
from imdbcls.printable import counted
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runtime import console, entry
from imdbcls.sweeps.jobs import Sweep, log_error, reason_of
from imdbcls.sweeps.live_table import RunProgress
from imdbcls.sweeps.preparing import prepare_jobs
from imdbcls.sweeps.publishing import publish_sweep
from imdbcls.sweeps.search import objective_of
from imdbcls.sweeps.slots import choose_gpu, num_jobs

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)

Train = Callable[["Config"], object]

HYDRA_LAUNCHER = "hydra._internal.core_plugins.basic_launcher"

sweep = Sweep()  # the jobs of this process's command


def run_command(main: Callable[[], object]) -> int:
    """Run `main`, which Hydra has decorated, with the arguments of the command line.

    Return the exit code of a multirun, else 0.
    """
    with entry.stdout_is_secondary():  # the results are in the run folders, not on stdout
        sys.argv[1:] = commandline.answer_command(sys.argv[1:])
        logging.getLogger(HYDRA_LAUNCHER).setLevel(logging.WARNING)  # the sweep logs a line for each job itself
        gc.freeze()  # exclude the loaded modules and the config from garbage collection, even in forked jobs
        try:
            main()
            record_other_launchers()
        except (SystemExit, UserError):  # raised by Hydra or by imdbcls: wait for the running jobs before exiting
            sweep.conclude()
            raise
        except Exception as error:
            record_other_launchers()
            sweep.conclude()
            if not (isinstance(error, HydraException) or is_from_plugin(error)):
                raise
            logger.debug("error in a Hydra plugin", exc_info=error)
            raise UserError(
                f"The sweeper stopped with an error (IMDBCLS_LOG_LEVEL=DEBUG shows where): {reason_of(error)}"
            ) from error
        code = sweep.conclude()
        publish_sweep(sweep)
        return code


@contextmanager
def surviving_errors() -> Iterator[None]:
    """Log an error of a job instead of raising it, so that a Hydra launcher still waits for its other jobs."""
    try:
        yield
    except Exception as error:
        log_error(error)


def record_other_launchers() -> None:
    """Record the outcomes of the jobs that another Hydra launcher has run."""
    from imdbcls.sweeps.launched import record_launched  # imported here because its imports are heavy

    record_launched(sweep)


def is_from_plugin(error: Exception) -> bool:
    """Return whether an error was raised in a Hydra plugin, such as a sweeper."""
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith("hydra_plugins.") for name in names)


def run_job(cfg: DictConfig, overrides: str, train: Train, *, is_search: bool) -> float | None:
    """Check the config of one job of `--multirun`, and call `train` in a forked process.

    If the run is complete, no process is forked. A mistake in the config is recorded as the outcome of a job with the
    name `overrides`, and the sweep continues unless it is a search.

    In a search, wait for the run and return the value to optimise. Raise UserError if the config has a mistake or the
    run has no value, and SystemExit if a signal has stopped the sweep.
    """
    from imdbcls.config.checking import typed

    try:
        config = typed(cfg)
    except UserError as error:
        sweep.failed(overrides, error)
        if is_search:
            raise
        return None
    folder = run_folder(config)
    sweep.is_search = is_search
    sweep.num_expected = 0 if commandline.loader_in_use is None else len(commandline.loader_in_use.jobs)
    sweep.add_to_study(folder.study, config)
    if folder.complete() is not None:
        sweep.report(folder.path.name, partial(train, config), folder.result)
    else:
        if sweep.messages is None:  # this is the first job to start
            log_start(num_jobs(config))
        start_job(sweep, config, folder, train)
    return value_of_last_job(folder) if is_search else None


def log_start(jobs: int) -> None:
    """Log the number of runs, and that the modules and the documents are being loaded, which takes seconds."""
    at_a_time = f", {jobs} at a time" if jobs > 1 else ""
    runs = f"{counted(sweep.num_expected, 'run')}{at_a_time}" if sweep.num_expected > 1 else "Sweep"
    logger.info(f"{runs}: loading the modules and the documents")


def value_of_last_job(folder: RunFolder) -> float:
    """Return the value of the last job, for the sweeper. Raise UserError or SystemExit if the job has none."""
    if sweep.stopped_by is not None:
        sys.exit(128 + sweep.stopped_by)
    outcome = sweep.outcomes[-1]
    if outcome.state != "done":
        raise UserError(f"{outcome.name} has no value to optimise ({outcome.state}): {outcome.detail}")
    return objective_of(folder.result() or {})


def start_job(
    sweep: Sweep, config: "Config", folder: RunFolder, train: Train, name: str = "", caption: str = ""
) -> None:
    """Prepare this process, call `train` in a forked process, and wait until fewer than `num_jobs(config)` jobs run.

    `name` is shown instead of the folder's name. If jobs run one at a time, a terminal shows `caption` above the live
    line.
    """
    jobs, name, has_progress = num_jobs(config), name or folder.path.name, config.progress in ("auto", "live")
    job: Callable[[], object]
    if jobs > 1:
        job = partial(train_with_share, config, train, sweep, jobs, name)
    elif caption:
        job = partial(train_with_caption, config, train, name, caption if has_progress else "")
    else:
        job = partial(train, config)
    progress = RunProgress(folder.path / "metrics.jsonl", config.epochs, config.metric) if has_progress else None
    sweep.run(name, partial(prepare_jobs, config), job, folder.result, jobs, progress)


def train_with_caption(config: "Config", train: Train, name: str, caption: str) -> None:
    """Call `train` in the only running job. A terminal shows the caption above its live line.

    Without a terminal or a caption, each line of its log starts with `name`.
    """
    if caption and console.shows_live():
        console.caption(caption)
    else:
        console.prefix_messages(name)
    train(config)


def train_with_share(config: "Config", train: Train, sweep: Sweep, jobs: int, name: str) -> None:
    """Call `train` in one of `jobs` parallel jobs, with its share of the threads and, with CUDA, one GPU.

    Each line of its log starts with `name`.
    """
    console.prefix_messages(name)
    choose_gpu(config, sweep.slot)
    from imdbcls.runtime.device import share_threads

    share_threads(jobs)  # not `num_jobs`: this process now sees only one GPU
    train(config)
