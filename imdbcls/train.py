"""Train one run, or a sweep of them: `python -m imdbcls.train head=lstm lr=3e-5`.

validate → build → fit → score the test split once → `result.json`. Nothing heavy is imported before the configuration
is known to be sound.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imdbcls.console import say
from imdbcls.errors import UserError
from imdbcls.validate import validate

if TYPE_CHECKING:
    from imdbcls.runs import RunFolder


@hydra.main(version_base="1.3", config_path="pkg://imdbcls.conf", config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        config = resolve(cfg)
        validate(config)
        train(config)
    except UserError as error:
        say(f"imdbcls: {error}")
        sys.exit(2)


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values; raises UserError where a value is missing or points nowhere."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key} has no usable value: {error.msg}") from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def train(config: Mapping[str, Any]) -> dict[str, Any]:
    """Run one configuration to its `result.json`: skip what is done, continue what was begun."""
    from imdbcls.runs import RunFolder, run_name

    folder = RunFolder(Path(config["runs_dir"]) / config["study"] / run_name(config))
    with folder.locked():
        result = folder.result()
        if result is not None and result["status"] == "done":
            say(f"{folder.path} is done already: test accuracy {result['test/accuracy']:.2%}. Nothing was run.")
            return result
        folder.write_config(config)
        return fit_and_score(config, folder)


def fit_and_score(config: Mapping[str, Any], folder: "RunFolder") -> dict[str, Any]:
    """Build, fit, score and record one run; what ends it early is recorded too, then raised."""
    from imdbcls.console import quiet_libraries

    quiet_libraries()
    from imdbcls import build, report
    from imdbcls.scoring import score
    from imdbcls.trainer import Interrupted

    hardware = build.build_hardware(config)
    corpus = build.build_corpus(config)
    backbone = build.build_backbone(config)
    backbone.save(folder.backbone)
    model = build.build_model(config, backbone, len(corpus.label_names))
    validation = build.build_scored_split(config, backbone, corpus.validation)
    test = build.build_scored_split(config, backbone, corpus.test)
    trainer = build.build_trainer(config, folder, hardware, backbone, model, corpus.train, validation, test)
    report.announce(config, folder, hardware, corpus, model, trainer)
    resumed_step = trainer.resume_last()
    with build.build_tracker(config, folder, resumed_step) as tracker:
        try:
            trainer.fit(tracker)
        except Interrupted as error:
            tracker.mark_interrupted()
            folder.write_result(report.failed_result(config, folder, "interrupted", error))
            raise
        except Exception as error:
            folder.write_result(report.failed_result(config, folder, "failed", error))
            raise
        predictions = {}
        for name, split in (("validation", validation), ("test", test)):
            predictions[name] = score(model, split.batches, hardware, trainer.progress.of(name))
            folder.write_predictions(name, split.documents, split.tokens.lengths, predictions[name])
        result = report.result_of(config, folder, corpus, model, trainer, predictions)
        tracker.log_test(
            labels=predictions["test"].labels.tolist(),
            predictions=predictions["test"].predicted.tolist(),
            label_names=corpus.label_names,
            mistakes=report.worst_mistakes(corpus.test, corpus.label_names, predictions["test"]),
        )
        tracker.finish(result)
    folder.write_result(result)
    report.conclude(folder, result)
    return result


if __name__ == "__main__":
    main()
