"""Train one run, or a sweep of them: `python -m imdbcls.train head=lstm lr=3e-5`.

validate → build → fit → score the test split once → `result.json`. Nothing heavy is imported before the configuration
is known to be sound.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import take_over

    take_over()

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imdbcls.config.commandline import answer_command
from imdbcls.config.resolving import resolve
from imdbcls.config.validate import validate
from imdbcls.errors import UserError
from imdbcls.runs.data_origin import remember_source
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import run_name
from imdbcls.runs.untrusted import require_no_links
from imdbcls.runtime import console, entry, limits
from imdbcls.runtime.console import quiet_libraries, say
from imdbcls.runtime.process import tune_process
from imdbcls.runtime.signals import Interrupted, StopRequest, stop_requests
from imdbcls.sweeps.jobs import Sweep

LATENCY_DOCUMENTS = 25  # timed one by one after the test split is scored

sweep = Sweep()


@hydra.main(version_base="1.3", config_path="pkg://imdbcls.conf", config_name="config")
def main(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN and hydra_config.launcher._target_.endswith("BasicLauncher"):
        run_in_sweep(cfg, hydra_config.job.override_dirname)
        return
    with console.user_errors():
        config = resolve(cfg)
        validate(config)
        if config["jobs"] > 1:
            console.warn(f"jobs={config['jobs']} has no effect: it is for --multirun with Hydra's own launcher.")
        train(config)


def run_in_sweep(cfg: DictConfig, overrides: str) -> None:
    """Run one job of a multirun apart, after doing here once what all its jobs share: imports and reading the data."""
    try:
        config = resolve(cfg)
        validate(config)
    except UserError as error:
        sweep.failed(overrides, error)
        return
    folder = run_folder(config)

    def prepare() -> None:
        prepare_process()
        # Import all modules now: jobs then run the code of the sweep's start, and do not spend seconds on imports.
        import pyarrow.parquet  # noqa: F401
        import sklearn.metrics  # noqa: F401
        import torchmetrics.functional.classification  # noqa: F401

        from imdbcls import build, tracking
        from imdbcls.data import card  # noqa: F401
        from imdbcls.training import report  # noqa: F401

        tracking.import_early(config["tracker"])
        build.keep_corpus(config)

    sweep.studies.add(folder.study)
    if folder.complete() is not None:
        sweep.report(folder.path.name, partial(train, config), folder.result)
        return
    job = train if config["jobs"] == 1 else train_beside_others
    sweep.run(folder.path.name, prepare, partial(job, config), folder.result, config["jobs"])


def train_beside_others(config: Mapping[str, Any]) -> None:
    """`train` in one of several processes: with its share of the threads, and its name before what it says."""
    console.speak_as(run_name(config))
    from imdbcls.runtime.device import share_threads

    share_threads(config["jobs"])
    train(config)


def prepare_process() -> None:
    """Check and set what is needed before the heavy imports."""
    limits.require_address_space()
    quiet_libraries()
    tune_process()


def run_folder(config: Mapping[str, Any]) -> RunFolder:
    """The run's folder; absolute where Hydra has changed the working directory (hydra.job.chdir)."""
    path = Path(config["runs_dir"]) / config["study"] / run_name(config)
    has_moved = HydraConfig.initialized() and Path(HydraConfig.get().runtime.cwd) != Path.cwd()
    return RunFolder(path.absolute() if has_moved else path)


def train(config: Mapping[str, Any]) -> dict[str, Any]:
    """Run one configuration to its `result.json`: skip what is done, continue what was begun."""
    from imdbcls.tracking.environment import resolved

    folder = run_folder(config)
    config = {**config, "tracker": resolved(config["tracker"])}
    with limits.explained(), folder.locked():
        require_no_links(folder.path)  # it may come from elsewhere, and is written to
        result = folder.complete()
        if result is not None:
            say(
                f"{folder.path} is done already: test accuracy {result['test/accuracy']:.2%}. Nothing was run. To run "
                "it again, for example after a change to the code, move the folder away."
            )
            return result
        if (damage := folder.damage()) is not None:
            kept = folder.set_result_aside()
            console.warn(
                f"{folder.path}: {damage}. The old result.json is kept as {kept.name}; the run continues from its "
                "checkpoints, or starts again where it has none."
            )
        with stop_requests() as stop:
            prepare_process()
            return fit_and_score(config, folder, stop)


def fit_and_score(config: Mapping[str, Any], folder: RunFolder, stop: StopRequest) -> dict[str, Any]:
    """Build, fit, score and record one run; an end before the end is recorded too, and raised."""
    from imdbcls import build
    from imdbcls.data.card import card_of, card_tables
    from imdbcls.models.inference import measure_latency
    from imdbcls.runtime.device import forget_peak_memory
    from imdbcls.training import report

    with recording_failures(config, folder):
        folder.write_config(config)
        with stop.at_once():  # nothing is learnt yet
            build.require_buildable(config)
            hardware = build.build_hardware(config)
            forget_peak_memory(hardware.device)
            corpus = build.build_corpus(config)
            remember_source(config["data"]["source"])
            backbone = build.build_backbone(config)
            backbone.save(folder.backbone)
            model = build.build_model(config, backbone, len(corpus.label_names))
            validation = build.build_scored_split(config, backbone, corpus.validation)
            test = build.build_scored_split(config, backbone, corpus.test)
            trainer = build.build_trainer(config, folder, hardware, backbone, model, corpus, validation, test, stop)
            counts = build.token_counts(config, backbone, trainer, validation, test)
            report.announce(config, folder, corpus, backbone, trainer, counts)
            resumed_step = trainer.resume()
        with build.build_tracker(config, folder, resumed_step) as tracker:
            tracker.log_data(corpus.split_hash, lambda: card_tables(card_of(config, corpus, backbone.tokenizer)))
            folder.begin()
            try:
                trainer.fit(tracker)
                at_best = trainer.best_validation  # None where an earlier process scored it
                predictions = {
                    "validation": trainer.score("validation", validation.batches) if at_best is None else at_best,
                    "test": trainer.score("test", test.batches),
                }
                for name, split in (("validation", validation), ("test", test)):
                    folder.write_predictions(
                        name, split.documents, split.tokens.lengths, predictions[name], corpus.label_names
                    )
                with stop.at_once():
                    latency = measure_latency(model, test.batches, hardware, LATENCY_DOCUMENTS)
            except Interrupted:
                tracker.mark_interrupted()
                raise
            result = report.result_of(config, folder, corpus, trainer, predictions, latency, counts)
            folder.write_result(result)  # first: what follows may wait for a server
            mistakes = report.worst_mistakes(corpus.test, corpus.label_names, predictions["test"])
            tracker.log_test(
                predictions["test"].labels.tolist(),
                predictions["test"].predicted.tolist(),
                corpus.label_names,
                mistakes,
            )
            tracker.finish(result)
    report.conclude(folder, result)
    return result


@contextmanager
def recording_failures(config: Mapping[str, Any], folder: RunFolder) -> Iterator[None]:
    """Write a `result.json` for a run that ends early: `interrupted` exits the process, `failed` raises.

    A UserError before the first training step leaves no folder: nothing was trained, and the corrected command is
    another run. A limit of the machine (memory, disk space) is raised as UserError.
    """
    try:
        yield
    except Interrupted as error:
        record_end(config, folder, "interrupted", error)
        say(f"{folder.path.name}: {error}.")
        sys.exit(error.exit_code)
    except (Exception, SystemExit) as error:
        explained = limits.explain(error)
        if folder.is_new and isinstance(explained or error, UserError):
            folder.discard()
        else:
            record_end(config, folder, "failed", explained or error)
        if explained is not None:
            raise explained from error
        raise


def record_end(config: Mapping[str, Any], folder: RunFolder, status: str, error: BaseException) -> None:
    from imdbcls.training import report

    try:
        folder.write_result(report.failed_result(config, folder, status, error))
    except OSError as problem:
        say(f"Could not write {folder.path}/result.json: {problem}.")


def command() -> None:
    """Run the command line and end the process."""
    entry.run(run_command)


def run_command() -> int:
    """Answer the command line; returns the exit code of a sweep, 0 for a run."""
    with entry.stdout_is_secondary():  # Hydra logs there; the runs are recorded in their folders
        sys.argv[1:] = answer_command(sys.argv[1:])
        gc.freeze()  # the modules and the composed base stay: no collection looks at them again, in forked jobs neither
        try:
            main()
        except SystemExit:  # Hydra's or ours: the jobs that run are waited for all the same
            sweep.conclude()
            raise
        return sweep.conclude()


if __name__ == "__main__":
    command()
