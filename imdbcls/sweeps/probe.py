"""Measure a run on a sample of its documents in a separate process: build it, train, evaluate, save and finish.

A first pass over a few documents loads and compiles everything, so its training is too slow to be representative. This
pass measures the time to build the run, and decides how many documents the second pass uses. The second pass measures
everything else.
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imdbcls.build import build_run
from imdbcls.config.schema import Config
from imdbcls.construction import build_corpus, keep_as
from imdbcls.data.batches import Prefetcher, TrainBatches
from imdbcls.data.documents import Corpus
from imdbcls.data.subset import subset
from imdbcls.models.inference import LATENCY_DOCUMENTS, measure_latency
from imdbcls.models.metrics import metrics_of
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.result import identity_of
from imdbcls.runtime.device import share_threads
from imdbcls.runtime.signals import StopRequest
from imdbcls.sweeps.cost import RunCost, SharedCost
from imdbcls.sweeps.slots import num_jobs
from imdbcls.tracking import Trackers
from imdbcls.training import report
from imdbcls.training.run import Run
from imdbcls.training.trainer import Trainer

TRAIN_SECONDS, EVALUATE_SECONDS, ENCODE_SECONDS = 10.0, 5.0, 8.0  # approximate time of each part of the second pass
FEW, MANY = 32, 2048  # limits of the number of documents sampled from a split; large batches can need more than MANY
WARM_UP_STEPS, MIN_STEPS = 2, 6
LONG = 1000  # number of epochs, so that the schedule has more steps than are measured

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return the wall time of a call in seconds, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def write_run_cost(config: Config, folder: Path, answer: Path, shared: SharedCost) -> None:
    """Measure a run in this process, with its files in `folder`, and write its `RunCost` to `answer` as JSON."""
    if (jobs := num_jobs(config)) > 1:
        share_threads(jobs)
    prepare_probe()
    answer.write_text(json.dumps(asdict(measure_run(config, folder, shared))))


def prepare_probe() -> None:
    """Log only errors in this process, and let Ctrl-C end it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save
    logging.getLogger("imdbcls").setLevel(logging.ERROR)  # the actual run will log its warnings


def probe_config(config: Config, folder: Path) -> Config:
    """Return a config for runs that write only to `folder` and its parent, where all groups share a cache.

    If the first epochs train only the head, the runs measure the steps of later epochs instead, which also train the
    encoder and take longer.
    """
    cache = {"cache_dir": str(folder.parent / "cache")}
    plain = {"head_first_epochs": 0, "greedy_soup": False}
    return config.with_changes(epochs=LONG, progress="none", data=cache, trainer=plain)


def measure_run(config: Config, folder: Path, shared: SharedCost) -> RunCost:
    """Return the cost of a run, measured in `folder`. `shared` contains the cost of encoding for the feature cache."""
    corpus, probed = build_corpus(config.data), probe_config(config, folder)
    sizes = first_sizes(probed)
    start_seconds, run = build(probed, folder / "first", subset(corpus, sizes))
    train_seconds, _, _ = train(run.trainer, MIN_STEPS, seconds=0, most=0)
    evaluate_seconds, _ = evaluate(run)
    del run  # on a GPU, one run may need most of the memory
    sizes = second_sizes(probed, sizes, evaluate_seconds, shared)
    _, run = build(probed, folder / "second", subset(corpus, sizes))
    num_steps = num_measured_steps(config, train_seconds)
    most = config.epochs * len(corpus.train)
    train_seconds, measured, warm_up_seconds = train(run.trainer, num_steps, TRAIN_SECONDS, most)
    cost = RunCost(
        num_documents={split: len(documents) for split, documents in corpus.splits.items()},
        measured=measured,
        start_seconds=start_seconds + warm_up_seconds,
        train_seconds=train_seconds,
        hardware=run.hardware.describe(),
    )
    cost = with_ending(cost, run)
    return replace(cost, training_bytes=cost.training_bytes + soup_bytes(config, run))


def num_measured_steps(config: Config, train_seconds: float) -> int:
    """Return the number of steps that take about `TRAIN_SECONDS`, from the seconds per document in the first pass."""
    return max(MIN_STEPS, round(TRAIN_SECONDS / (train_seconds * config.batch_size)))


def soup_bytes(config: Config, run: Run) -> int:
    """Return the size of the weights that a run keeps after each epoch for a soup; 0 without a soup."""
    return config.epochs * size_of(run.folder.checkpoints / "best") if config.trainer.greedy_soup else 0


def first_sizes(config: Config) -> dict[str, int]:
    """Return the number of documents per split in the first pass.

    Without a feature cache, sampling `MANY` training documents costs little time. With a feature cache, each sampled
    document is encoded, so only `FEW` are sampled, or as many as `MIN_STEPS` batches need.
    """
    num_train = max(FEW if config.uses_feature_cache else MANY, MIN_STEPS * config.batch_size)
    return {"train": num_train, "validation": FEW, "test": FEW}


def second_sizes(
    config: Config, first: Mapping[str, int], evaluate_seconds: float, shared: SharedCost
) -> dict[str, int]:
    """Return the number of documents per split in the second pass.

    Evaluating the test documents takes about `EVALUATE_SECONDS`. With a feature cache, encoding the training documents
    takes about `ENCODE_SECONDS`. The times differ if `FEW` or `MANY` limits the number of documents.
    """
    num_test = between(FEW, EVALUATE_SECONDS / evaluate_seconds, MANY)
    if not config.uses_feature_cache:
        return {**first, "test": num_test}
    affordable = ENCODE_SECONDS / shared.encode_seconds
    return {
        "train": between(first["train"], affordable, MANY),
        "validation": FEW,
        "test": between(FEW, affordable / 2, num_test),
    }


def with_ending(cost: RunCost, run: Run) -> RunCost:
    """Finish an epoch and the run, and return `cost` with the measured times and sizes."""
    num_validation, num_test = len(run.corpus.validation), len(run.corpus.test)
    epoch_seconds, _ = timed(partial(finish_epoch, run.trainer))
    evaluate_seconds, probabilities = evaluate(run)
    checkpoints = size_of(run.folder.checkpoints)
    finish_seconds, _ = timed(partial(finish, run, probabilities))
    discarded = discard_checkpoints(run.folder, run.config)
    predictions = size_of(run.folder.path / "predictions")
    return replace(
        cost,
        evaluate_seconds=evaluate_seconds,
        epoch_seconds=max(0.0, epoch_seconds - evaluate_seconds * num_validation),
        finish_seconds=finish_seconds,
        finished_bytes=size_of(run.folder.path) - predictions,
        training_bytes=checkpoints + discarded,  # while new checkpoints are written, the previous ones still exist
        prediction_bytes=predictions / (num_validation + num_test),
    )


def discard_checkpoints(folder: RunFolder, config: Config) -> int:
    """Remove the checkpoints that a finished run does not keep, and return their size in bytes."""
    before = size_of(folder.checkpoints)
    folder.discard_checkpoints(config.checkpoint.keep)
    return before - size_of(folder.checkpoints)


def between(least: int, value: float, most: int) -> int:
    return int(max(least, min(value, most)))


def build(config: Config, path: Path, sample: Corpus) -> tuple[float, Run]:
    """Build a run twice on a part of the documents. The first build fills the caches.

    Return the seconds that the second build took, and the run.
    """
    keep_as(config.data, sample)
    folder = RunFolder(path)
    folder.identity = identity_of(config, path.name)
    path.mkdir(parents=True)
    folder.write_config(config)
    build_run(config, folder, StopRequest())  # fills the caches
    return timed(partial(build_run, config, folder, StopRequest()))


def train(trainer: Trainer, num_steps: int, seconds: float, most: int) -> tuple[float, int, float]:
    """Warm up, and then train repeatedly on the same `num_steps` batches.

    Stop after the pass in which `seconds` have passed or `most` documents have been processed. Return the seconds per
    document, the number of documents in the batches, and the extra seconds of the warm-up, in which a model may be
    compiled.
    """
    plan = spread_plan(trainer.batches.train, num_steps)
    first = plan[:WARM_UP_STEPS]
    trainer.model.train()
    warming_up, _ = timed(partial(take_steps, trainer, first))
    num_documents, num_processed, total = sum(map(len, plan)), 0, 0.0
    while num_processed == 0 or (total < seconds and num_processed < most):
        elapsed, _ = timed(partial(take_steps, trainer, plan))
        num_processed, total = num_processed + num_documents, total + elapsed
    trainer.count_time(total)
    per_document = total / num_processed
    return per_document, num_documents, max(0.0, warming_up - per_document * sum(map(len, first)))


def spread_plan(batches: TrainBatches, num_steps: int) -> list[NDArray[np.int64]]:
    """Return `num_steps` of the batches of an epoch, in random order.

    The batches are evenly spaced in the list of all batches sorted by number of tokens. If the epoch has at most
    `num_steps` batches, return all of them in the order of the epoch.
    """
    plan = batches.plan(0)
    if num_steps >= len(plan):
        return plan
    order = np.argsort([batches.tokens.lengths[rows].sum() for rows in plan], kind="stable")
    places = ((np.arange(num_steps) + 0.5) * len(plan) / num_steps).astype(np.int64)
    return [plan[index] for index in np.random.default_rng(0).permutation(order[places])]


def take_steps(trainer: Trainer, plan: Sequence[NDArray[np.int64]]) -> None:
    """Take the steps of `Trainer.fit` with these batches, and wait until the device has finished them."""
    batches = Prefetcher(trainer.batches.train.collated(plan, epoch=0))
    for batch in batches:
        trainer.step(batch)
        batches.prefetch()
        trainer.count(batch)
    trainer.fetch_metrics()


def finish_epoch(trainer: Trainer) -> None:
    """Evaluate the validation split, and wait until the checkpoints are written."""
    trainer.finish_epoch(Trackers())
    trainer.saver.wait()


def evaluate(run: Run) -> tuple[float, NDArray[np.float64]]:
    """Evaluate the test split; return the seconds per document, and the probabilities."""

    def predict() -> NDArray[np.float64]:
        probabilities = run.trainer.evaluator.scores("test", run.batches.test)
        metrics_of(run.corpus.test.labels, probabilities)
        return probabilities

    seconds, probabilities = timed(predict)
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
