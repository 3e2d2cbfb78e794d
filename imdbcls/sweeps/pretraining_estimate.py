"""Estimate the cost of a pretraining run without training it: `python -m imdbcls.pretrain ... --dry-run`.

The run is built on a sample of its documents, in a temporary folder that is removed at the end.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from imdbcls.config.pretrain_settings import PretrainSettings
from imdbcls.config.schema import Config
from imdbcls.data.subset import subset
from imdbcls.data.tokens import tokenize
from imdbcls.pretraining import build_pretraining, build_pretraining_corpus
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runtime import console
from imdbcls.runtime.signals import StopRequest
from imdbcls.sweeps.cost import Estimate, GroupEstimate, RunCost, SharedCost, SharedWork
from imdbcls.sweeps.cost_table import report
from imdbcls.sweeps.estimate import temporary_folder
from imdbcls.sweeps.probe import (
    FEW,
    MANY,
    MIN_STEPS,
    TRAIN_SECONDS,
    discard_checkpoints,
    finish_epoch,
    num_measured_steps,
    probe_config,
    size_of,
    soup_bytes,
    timed,
    train,
)
from imdbcls.training.run import Run

logger = logging.getLogger(__name__)


def estimate_pretraining(config: Config, settings: PretrainSettings) -> None:
    """Print the estimated time and disk space of a pretraining run.

    Raise UserError if the run cannot be built, and SystemExit after a signal.
    """
    if run_folder(config).finished_pretraining() is None:
        logger.info("Measuring a few steps of pretraining ...")
        with temporary_folder() as folder:
            found = measured(config, settings, folder)
    else:
        done = GroupEstimate(config.study, num_runs=1, num_done=1)
        found = Estimate((done,), (), start_seconds=0.0, measured_seconds=0.0)
    console.write_out(report(found, config, console.columns_of(sys.stdout)))


def measured(config: Config, settings: PretrainSettings, folder: Path) -> Estimate:
    """Build a run on a sample of its documents, train and evaluate it for some seconds, and return the estimate."""
    logging.getLogger("imdbcls").setLevel(logging.ERROR)  # the actual run will log its messages
    started, load = time.monotonic(), os.getloadavg()[0]
    read_seconds, corpus = timed(partial(build_pretraining_corpus, config, settings))
    sample = subset(corpus, {"train": MANY, "validation": FEW, "test": FEW})
    scratch, probed = RunFolder(folder / "run"), probe_config(config, folder / "run")
    scratch.path.mkdir()
    build_seconds, run = timed(partial(build_pretraining, probed, settings, scratch, StopRequest(), sample))
    tokenize_seconds, _ = timed(partial(tokenize, sample.train, run.backbone.tokenizer, cache_dir=folder / "timed"))
    shared = SharedCost(tokenize_seconds=tokenize_seconds / len(sample.train))
    num_documents = {"train": len(corpus.train), "validation": len(corpus.validation), "test": 0}
    work = SharedWork(shared, sum(num_documents.values()), num_encoded=0, is_done=False)
    cost = cost_of(run, config, num_documents, build_seconds)
    group = GroupEstimate(config.study, num_runs=1, num_done=0, cost=cost, seconds=cost.seconds(config, shared))
    return Estimate((group,), (work,), read_seconds, time.monotonic() - started, load)


def cost_of(run: Run, config: Config, num_documents: Mapping[str, int], build_seconds: float) -> RunCost:
    """Return the cost of a pretraining run, measured on `run`, which has a sample of the documents.

    `num_documents` maps each split to the number of all its documents.
    """
    trainer = run.trainer
    # The first steps load and compile everything.
    first_seconds, _, warm_up_seconds = train(trainer, MIN_STEPS, seconds=0, most=0)
    num_steps = num_measured_steps(config, first_seconds)
    most = config.epochs * num_documents["train"]
    train_seconds, num_measured, _ = train(trainer, num_steps, TRAIN_SECONDS, most)
    validation_seconds, _ = timed(partial(trainer.evaluator.scores, "validation", trainer.batches.validation))
    evaluate_seconds = validation_seconds / trainer.batches.validation.num_documents
    epoch_seconds, _ = timed(partial(finish_epoch, trainer))
    finish_seconds, _ = timed(partial(trainer.saver.load_best, trainer.state))
    checkpoints = size_of(run.folder.checkpoints)
    discarded = discard_checkpoints(run.folder, config)
    before_training = evaluate_seconds * num_documents["validation"]
    return RunCost(
        num_documents=num_documents,
        measured=num_measured,
        start_seconds=build_seconds + warm_up_seconds + before_training,
        train_seconds=train_seconds,
        evaluate_seconds=evaluate_seconds,
        epoch_seconds=max(0.0, epoch_seconds - validation_seconds),
        finish_seconds=finish_seconds,
        finished_bytes=size_of(run.folder.path),
        training_bytes=checkpoints + discarded + soup_bytes(config, run),
        hardware=run.hardware.describe(),
    )
