"""Train one run, or a sweep of them: `python -m imdbcls.train head=lstm lr=3e-5`.

validate → build → fit → score the test split once → `result.json`. Nothing heavy is imported before the configuration
is known to be sound.
"""

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

from imdbcls.console import quiet_libraries, say
from imdbcls.errors import UserError
from imdbcls.fast.process import tune_process
from imdbcls.overrides import answer_command, resolve
from imdbcls.runs import RunFolder, run_name
from imdbcls.signals import Interrupted, stop_requests
from imdbcls.sweep import Sweep
from imdbcls.validate import validate

LATENCY_DOCUMENTS = 50  # timed one by one after the test split is scored

sweep = Sweep()


@hydra.main(version_base="1.3", config_path="pkg://imdbcls.conf", config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        config = resolve(cfg)
        validate(config)
        if HydraConfig.get().mode is RunMode.MULTIRUN and HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
            run_in_sweep(config)
        else:
            train(config)
    except UserError as error:
        say(f"imdbcls: {error}")
        sys.exit(2)


def run_in_sweep(config: Mapping[str, Any]) -> None:
    """Run one job of a multirun apart, after doing here once what all its jobs share: imports and reading the data."""
    folder = run_folder(config)
    if folder.finished() is None:
        prepare_process()
        from imdbcls import build, report  # noqa: F401  (all modules now: every job runs the code of the sweep's start)

        build.build_corpus(config)
    sweep.run(folder.path.name, partial(train, config), folder.result)


def prepare_process() -> None:
    """What must be set before the heavy imports."""
    quiet_libraries()
    tune_process()


def run_folder(config: Mapping[str, Any]) -> RunFolder:
    return RunFolder(Path(config["runs_dir"]) / config["study"] / run_name(config))


def train(config: Mapping[str, Any]) -> dict[str, Any]:
    """Run one configuration to its `result.json`: skip what is done, continue what was begun."""
    folder = run_folder(config)
    with folder.locked():
        result = folder.finished()
        if result is not None:
            say(f"{folder.path} is done already: test accuracy {result['test/accuracy']:.2%}. Nothing was run.")
            return result
        folder.write_config(config)
        prepare_process()
        return fit_and_score(config, folder)


def fit_and_score(config: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Build, fit, score and record one run; an end before the end is recorded too, and raised."""
    from imdbcls import build, report
    from imdbcls.scoring import measure_latency

    with stop_requests() as stop, recording_failures(config, folder):
        hardware = build.build_hardware(config)
        corpus = build.build_corpus(config)
        stop.obey()
        backbone = build.build_backbone(config)
        backbone.save(folder.backbone)
        model = build.build_model(config, backbone, len(corpus.label_names))
        validation = build.build_scored_split(config, backbone, corpus.validation)
        test = build.build_scored_split(config, backbone, corpus.test)
        trainer = build.build_trainer(config, folder, hardware, backbone, model, corpus.train, validation, test, stop)
        stop.obey()
        report.announce(config, folder, corpus, trainer)
        resumed_step = trainer.resume_last()
        with build.build_tracker(config, folder, resumed_step) as tracker:
            try:
                trainer.fit(tracker)
                predictions = {
                    "validation": trainer.best_validation or trainer.score("validation", validation.batches),
                    "test": trainer.score("test", test.batches),
                }
                for name, split in (("validation", validation), ("test", test)):
                    folder.write_predictions(name, split.documents, split.tokens.lengths, predictions[name])
            except Interrupted:
                tracker.mark_interrupted()
                raise
            latency = measure_latency(model, test.batches, hardware, LATENCY_DOCUMENTS)
            result = report.result_of(config, folder, corpus, trainer, predictions, latency)
            mistakes = report.worst_mistakes(corpus.test, corpus.label_names, predictions["test"])
            tracker.log_test(
                predictions["test"].labels.tolist(),
                predictions["test"].predicted.tolist(),
                corpus.label_names,
                mistakes,
            )
            tracker.finish(result)
        folder.write_result(result)
    report.conclude(folder, result)
    return result


@contextmanager
def recording_failures(config: Mapping[str, Any], folder: RunFolder) -> Iterator[None]:
    """Write a `result.json` for a run that ends early: `interrupted` exits the process, `failed` raises."""
    from imdbcls import report

    try:
        yield
    except Interrupted as error:
        folder.write_result(report.failed_result(config, folder, "interrupted", error))
        say(f"{folder.path.name}: {error}.")
        sys.exit(error.exit_code)
    except Exception as error:
        folder.write_result(report.failed_result(config, folder, "failed", error))
        raise


if __name__ == "__main__":
    answer_command(sys.argv[1:])
    main()
    sys.exit(sweep.conclude())
