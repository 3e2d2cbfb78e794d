"""Measure a run on a sample of its documents, in a process of its own: build it, train, evaluate, save and finish.

A first pass over a few documents loads and compiles everything, so it is too slow to be representative. It only decides
how many documents the second pass uses. The second pass is the measurement.
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imdbcls.build import build_run
from imdbcls.config.schema import Config
from imdbcls.construction import build_corpus, keep_as
from imdbcls.data.batches import Prefetcher, TrainBatches
from imdbcls.data.subset import subset
from imdbcls.models.inference import LATENCY_DOCUMENTS, measure_latency
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.device import share_threads
from imdbcls.runtime.signals import StopRequest
from imdbcls.sweeps.cost import RunCost, SharedCost, caches_features
from imdbcls.tracking import NoTracker
from imdbcls.training import report
from imdbcls.training.run import Run
from imdbcls.training.trainer import Trainer

TRAIN_SECONDS, EVALUATE_SECONDS, ENCODE_SECONDS = 10.0, 5.0, 8.0  # how long each part of the second pass takes, about
FEW, MANY = 32, 2048  # documents of a split in the first pass, and at most in the second
WARM_UP_STEPS, MIN_STEPS = 2, 6
SPLITS = ("train", "validation", "test")
LONG = 1000  # epochs of the schedule: more steps than are measured

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return the wall time of a call in seconds, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def write_run_cost(config: Config, folder: Path, answer: Path, shared: SharedCost) -> None:
    """Measure a run in this process, with its files in `folder`, and write its `RunCost` to `answer` as JSON."""
    if config.jobs > 1:
        share_threads(config.jobs)
    answer.write_text(json.dumps(asdict(measure_run(prepare_probe(config, folder), folder, shared))))


def prepare_probe(config: Config, folder: Path) -> Config:
    """Silence this process, let signals end it, and return a config for runs that write only to `folder`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save
    logging.getLogger("imdbcls").setLevel(logging.ERROR)  # the run itself will log its warnings
    cache = {"cache_dir": str(folder.parent / "cache")}  # shared, so that groups encode the same sample only once
    return config.with_changes(epochs=LONG, progress="none", data=cache)


def measure_run(config: Config, folder: Path, shared: SharedCost) -> RunCost:
    """Return the cost of a run. `shared` is the cost of encoding documents for the feature cache."""
    corpus, few = build_corpus(config.data), max(FEW, MIN_STEPS * config.batch_size)
    # Without the feature cache, documents that are not used cost nothing but their tokenization.
    sizes = {"train": few if caches_features(config) else MANY, "validation": FEW, "test": FEW}
    start_seconds, run = build(config, folder / "first", sizes)
    train_seconds, _ = train(run.trainer, MIN_STEPS, seconds=0)
    evaluate_seconds, _ = evaluate(run)
    num_steps = max(MIN_STEPS, round(TRAIN_SECONDS / (train_seconds * config.batch_size)))
    sizes["test"] = between(FEW, EVALUATE_SECONDS / evaluate_seconds, MANY)
    if caches_features(config):
        affordable = ENCODE_SECONDS / shared.encode_seconds
        sizes["train"] = between(few, affordable, MANY)
        sizes["test"] = between(FEW, affordable / 2, sizes["test"])
    keep_as(config.data, corpus)
    _, run = build(config, folder / "second", sizes)
    train_seconds, measured = train(run.trainer, num_steps, TRAIN_SECONDS)
    epoch_seconds, _ = timed(partial(finish_epoch, run.trainer))
    evaluate_seconds, probabilities = evaluate(run)
    running_bytes = size_of(run.folder.checkpoints)
    finish_seconds, _ = timed(partial(finish, run, probabilities))
    predictions = size_of(run.folder.path / "predictions")
    return RunCost(
        num_documents={split: len(documents) for split, documents in corpus.splits.items()},
        measured=measured,
        start_seconds=start_seconds,
        train_seconds=train_seconds,
        evaluate_seconds=evaluate_seconds,
        epoch_seconds=max(0.0, epoch_seconds - evaluate_seconds * len(run.corpus.validation)),
        finish_seconds=finish_seconds,
        finished_bytes=size_of(run.folder.path) - predictions,
        training_bytes=running_bytes,  # a second copy of both checkpoints while they are written
        prediction_bytes=predictions / (len(run.corpus.validation) + len(run.corpus.test)),
        hardware=run.hardware.describe(),
    )


def between(least: int, value: float, most: int) -> int:
    return int(min(max(value, least), most))


def build(config: Config, path: Path, sizes: Mapping[str, int]) -> tuple[float, Run]:
    """Build a run on a part of the documents. Return the time that this takes if tokens and features are cached."""
    keep_as(config.data, subset(build_corpus(config.data), sizes))
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.write_config(config)
    build_run(config, folder, StopRequest())  # fills the caches
    return timed(partial(build_run, config, folder, StopRequest()))


def train(trainer: Trainer, num_steps: int, seconds: float) -> tuple[float, int]:
    """Train with `num_steps` different batches, again and again until `seconds` have passed.

    Return the seconds per document, without the first steps, and the number of documents that were timed.
    """
    plan = spread_plan(trainer.batches.train, num_steps)
    trainer.model.train()
    take_steps(trainer, plan[:WARM_UP_STEPS])
    num_documents, total = 0, 0.0
    while total == 0 or total < seconds:
        elapsed, _ = timed(partial(take_steps, trainer, plan))
        num_documents, total = num_documents + sum(map(len, plan)), total + elapsed
    trainer.count_time(total)
    return total / num_documents, num_documents


def spread_plan(batches: TrainBatches, num_steps: int) -> list[NDArray[np.int64]]:
    """Return `num_steps` batches of an epoch, in random order, that are evenly spaced in the order of their length."""
    plan = batches.plan(0)
    if num_steps >= len(plan):
        return plan
    order = np.argsort([batches.tokens.lengths[rows].sum() for rows in plan], kind="stable")
    places = ((np.arange(num_steps) + 0.5) * len(plan) / num_steps).astype(np.int64)
    return [plan[index] for index in np.random.default_rng(0).permutation(order[places])]


def take_steps(trainer: Trainer, plan: Sequence[NDArray[np.int64]]) -> None:
    """Take the steps of `Trainer.fit` with these batches, and wait until the device has finished them."""
    batches = Prefetcher(trainer.batches.train.collated(plan))
    for batch in batches:
        trainer.step(batch)
        batches.prefetch()
        trainer.count(batch)
    trainer.fetch_metrics()


def finish_epoch(trainer: Trainer) -> None:
    """Evaluate the validation split, and wait until the checkpoints are written."""
    trainer.finish_epoch(NoTracker())
    trainer.saver.wait()


def evaluate(run: Run) -> tuple[float, NDArray[np.float64]]:
    """Return the seconds per document of the test split, and the probabilities."""
    seconds, probabilities = timed(partial(run.trainer.predict_split, "test", run.batches.test))
    return seconds / len(run.corpus.test), probabilities


def finish(run: Run, test: NDArray[np.float64]) -> None:
    """Do what a run does after the test split is evaluated."""
    assert run.trainer.best_validation is not None, "finish_epoch evaluates the validation split"
    run.trainer.saver.load_best(run.trainer.state)
    predictions = report.record_predictions(run, {"validation": run.trainer.best_validation, "test": test})
    latency_ms = measure_latency(run.model, run.batches.test, run.hardware, LATENCY_DOCUMENTS)
    run.folder.write_result(report.result_of(run, predictions, latency_ms))


def size_of(folder: Path) -> int:
    """Return the size in bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
