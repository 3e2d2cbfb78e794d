"""Train one run or a sweep: `python -m imdbcls.train head=lstm lr=3e-5`.

Check the config → build the run → fit → evaluate the test split once → write `result.json` → close the tracker. The
config is checked before any heavy import.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import logging
import sys
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imdbcls.config.commandline import DRY_RUN
from imdbcls.config.hydra_plugins import is_search
from imdbcls.runs.data_origin import remember_source
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runs.result import exiting_like_main_process, identity_of, recording_failures
from imdbcls.runtime import console, distributed, entry, limits, torchrun
from imdbcls.runtime.distributed import Processes
from imdbcls.runtime.messages import recorded_messages
from imdbcls.runtime.process import prepare_process
from imdbcls.runtime.signals import StopRequest, stop_requests
from imdbcls.sweeps.multirun import run_command, run_job, surviving_errors
from imdbcls.sweeps.search import objective_of

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.training.control import ShouldPrune

logger = logging.getLogger("imdbcls.train")  # `__name__` is `__main__` in a command


@hydra.main(version_base="1.3", config_path="pkg://imdbcls.conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Train one run, or one job of a sweep. Return the value that the sweeper optimises, or None without a search."""
    hydra_config = HydraConfig.get()
    in_search = hydra_config.mode is RunMode.MULTIRUN and is_search(hydra_config.sweeper)
    if hydra_config.mode is RunMode.MULTIRUN and hydra_config.launcher._target_.endswith("BasicLauncher"):
        return run_job(cfg, hydra_config.job.override_dirname, train, is_search=in_search)
    from imdbcls.config.checking import typed

    on_error = surviving_errors if hydra_config.mode is RunMode.MULTIRUN else console.user_errors
    with nullcontext() if in_search else on_error():  # the search handles failed runs
        config = typed(cfg)
        if config.jobs not in (1, "auto"):
            logger.warning(f"jobs={config.jobs} has no effect: it requires --multirun and Hydra's default launcher.")
        result = train(config)
        return objective_of(result) if in_search else None
    return None


def train(config: "Config", should_prune: "ShouldPrune | None" = None) -> dict[str, Any]:
    """Train one checked config and return the content of its `result.json`.

    A finished run is not repeated: its recorded result is returned. An interrupted run is resumed. With `should_prune`,
    the run is a trial of a tuning study: it may be stopped after any epoch, and is not evaluated on the test split.
    """
    console.log_if_unconfigured()  # needed when called from Python or in a launcher's worker
    folder = run_folder(config)
    if torchrun.launched():
        return train_together(config, folder)
    with limits.explained(), folder.locked():
        result = folder.open_for_training() if should_prune is None else folder.open_for_trial()
        if result is not None:
            return result
        folder.identity = identity_of(config, folder.path.name)
        with recorded_messages(), stop_requests() as stop, recording_failures(folder):
            logger.info(f"{folder.path}: loading the documents and the encoder")  # the imports below take seconds
            prepare_process()
            remember_source(config.data.source.node)
            if should_prune is not None:
                return fit_trial(config, folder, stop, should_prune)
            return fit_and_score(config, folder, stop, Processes())


def train_together(config: "Config", folder: RunFolder) -> dict[str, Any]:
    """Train one run together with the other processes that torchrun started. Each process calls this function.

    Return the result in the main process, and {} in the other processes. Only the main process locks the folder and
    writes the result.
    """
    prepare_process()
    with ExitStack() as stack:
        stack.enter_context(limits.explained())
        stop = stack.enter_context(stop_requests())
        processes = stack.enter_context(distributed.joined_processes(config.device))
        stack.enter_context(distributed.explained(processes))
        result = None
        with processes.agreement():
            if processes.is_main:
                stack.enter_context(folder.locked())
                result = folder.open_for_training()
        if processes.largest(int(result is not None)):
            return result or {}
        folder.identity = identity_of(config, folder.path.name)
        stack.enter_context(recorded_messages())
        if processes.is_main:
            logger.info(f"{folder.path}: loading the documents and the encoder in {processes.size} processes")
        stack.enter_context(recording_failures(folder) if processes.is_main else exiting_like_main_process(folder))
        stack.enter_context(distributed.explained(processes))  # so that `result.json` records the explained error
        remember_source(config.data.source.node)
        return fit_and_score(config, folder, stop, processes)
    raise AssertionError  # the stack suppresses no exception


def fit_and_score(config: "Config", folder: RunFolder, stop: StopRequest, processes: Processes) -> dict[str, Any]:
    """Build one run, resume it from a checkpoint if there is one, train, evaluate, and return the recorded result.

    With several `processes`, only the main process records the result; the other processes return {}.
    """
    from imdbcls.build import build_run
    from imdbcls.data.card import card_tables
    from imdbcls.models.inference import LATENCY_DOCUMENTS, measure_latency
    from imdbcls.sections import build_tracker
    from imdbcls.tracking import Trackers
    from imdbcls.training import closing, report

    with stop.interruptible(), processes.agreement():  # no training progress can be lost yet
        if processes.is_main:
            folder.write_config(with_wandb_variables(config))
        run = build_run(config, folder, stop, processes=processes)
        if processes.is_main:
            report.log_start(run)
        resumed_step = run.trainer.resume()
    if not processes.is_main:
        run.trainer.fit(Trackers())
        run.trainer.final_probabilities()
        return {}
    with build_tracker(config, folder, resumed_step) as tracker:
        sizes = {split: len(getattr(run.corpus, split)) for split in ("train", "validation", "test")}
        tracker.log_data(run.corpus.split_hash, sizes, lambda: card_tables(run.data_card()))
        folder.begin()
        run.trainer.fit(tracker)
        predictions = report.record_predictions(run, run.trainer.final_probabilities())
        with stop.interruptible():
            latency_ms = measure_latency(run.model, run.batches.test, run.hardware, LATENCY_DOCUMENTS)
        # Write the result first: the tracker may have to wait for a server.
        result = folder.write_result({**report.result_of(run, predictions, latency_ms), "links": dict(tracker.links)})
        test, mistakes = predictions["test"], report.worst_mistakes(run, predictions["test"])
        tracker.log_test(test.true_labels.tolist(), test.predicted.tolist(), run.corpus.label_names, mistakes)
        tracker.finish(result, folder.path)
        closing.log_result(run, result)  # while the tracker is open, so that the tracker also logs these messages
    folder.discard_checkpoints(config.checkpoint.keep)
    return result


def fit_trial(config: "Config", folder: RunFolder, stop: StopRequest, should_prune: "ShouldPrune") -> dict[str, Any]:
    """Build one trial of a tuning study, resume it, train it until it ends or is pruned, and return its result."""
    from imdbcls.build import build_run
    from imdbcls.sections import build_tracker
    from imdbcls.training import closing, report

    folder.write_config(with_wandb_variables(config))
    with stop.interruptible():
        run = build_run(config, folder, stop, should_prune)
        report.log_start(run)
        resumed_step = run.trainer.resume()
    with build_tracker(config, folder, resumed_step) as tracker:
        folder.begin()
        run.trainer.fit(tracker)
        found = report.result_of_trial(run, run.trainer.final_validation())
        result = folder.write_result({**found, "links": dict(tracker.links)})
        tracker.finish(result, folder.path)
        closing.log_trial(result)
    folder.discard_checkpoints()
    return result


def with_wandb_variables(config: "Config") -> "Config":
    """Return the config to record. If the run uses W&B, W&B's environment variables override values of the config.

    Trackers get the config without these values, because other trackers have their own variables.
    """
    from imdbcls.tracking.environment import resolved

    if "wandb" not in config.tracker.chosen:
        return config
    return config.with_changes(tracker=resolved(config.tracker.shared))


def command() -> None:
    """Run the command line and end the process."""
    with torchrun.muted_other_processes():
        entry.run(estimate_only if DRY_RUN in sys.argv else partial(run_command, main))


def estimate_only() -> int:
    from imdbcls.sweeps.dry_run import dry_run  # imported here because training does not need it

    return dry_run()


if __name__ == "__main__":
    command()
