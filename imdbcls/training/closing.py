"""The lines that a run logs when it has ended: its result, what the result means, its cost, and what to do next."""

import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import entr

from imdbcls.config.schema import LossConfig
from imdbcls.models.metrics import accuracy_warning, wilson_interval
from imdbcls.models.scores import class_scores, class_table
from imdbcls.printable import duration
from imdbcls.runs.encoder_source import CAVEATS, same_splits_of
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.selection import DEFAULT, TITLES, as_text, selected_epochs
from imdbcls.runtime import console
from imdbcls.training.report import learning_rate_of
from imdbcls.training.run import Run

logger = logging.getLogger(__name__)

LEARNED_NOTHING = 0.97  # warn if the training loss is above this fraction of `loss_of_guessing`
OTHER_HEAD = {"cls": "mean", "lstm": "cls"}  # head of this run → head to suggest next (default: lstm)


def log_result(run: Run, result: Mapping[str, Any]) -> None:
    """Log the result with its interval, the warnings about it, its cost, and the commands to run next."""
    clusters = run.corpus.test.clusters
    num_clusters = None if clusters is None else len(set(clusters))
    for number, line in enumerate(result_lines(result, num_clusters)):
        logger.info(line, extra=console.BOLD if number == 0 else None)
    for warning in warnings_of(run, result):
        logger.warning(f"{result['name']}: {warning}")
    log_calibration(result)
    log_cost(run, result)
    logger.info(f"  next: {next_step(run)}")


def log_cost(run: Run, result: Mapping[str, Any]) -> None:
    """Log the time, the speed and the memory of training, and the run folder."""
    logger.info(
        f"  trained in {duration(result['train_seconds'])} (without validation), "
        f"{result['documents_per_second']:,.1f} documents/s, peak memory {result['peak_memory_mb']:,.0f} MB"
    )
    logger.info(f"  saved in {run.folder.path}")


def result_lines(result: Mapping[str, Any], num_clusters: int | None) -> Iterator[str]:
    """Yield the result of a run: a few lines, and a table of scores per class if there are more than two classes.

    `num_clusters` is the number of clusters of test documents; None if the data has no clusters.
    """
    metric, title, num_documents = result["metric"], TITLES[result["metric"]], result["test_documents"]
    confusion_CC = np.asarray(result["test/confusion_matrix"])
    low, high = accuracy_interval(confusion_CC)
    largest = int(confusion_CC.sum(axis=1).argmax())
    tested = "" if metric == DEFAULT else f"test {title} {as_text(metric, result[f'test/{metric}'])}, "
    yield f"{result['name']}: {tested}test accuracy {result['test/accuracy']:.2%} on {num_documents:,} documents"
    share = confusion_CC.sum(axis=1)[largest] / num_documents
    not_better = ", so this run may be no better" if low <= share else ""
    baseline = f"always predicting {result['label_names'][largest]!r} gives {share:.2%}{not_better}"
    yield f"  95 % interval over documents {low:.2%} to {high:.2%}; {baseline}"
    if num_clusters is not None and num_clusters < num_documents:
        yield (
            f"  this interval treats the {num_documents:,} documents as independent; compare treats their "
            f"{num_clusters:,} clusters (such as films) as independent"
        )
    watched = "; the test split was also evaluated during training" if result["watched_test"] else ""
    value = as_text(metric, result[f"val/{metric}"])
    yield f"  validation {title} {value} ({selected_epochs(result)}){watched}"
    if (same := same_splits_of([result])) is not True:
        yield f"  the encoder {CAVEATS[same]}"
    if parts := result.get("test/parts"):
        found = (f"{name} {part['accuracy']:.2%} of {part['documents']:,}" for name, part in parts.items())
        yield f"  accuracy by part: {', '.join(found)}"
    if len(confusion_CC) > 2:
        scores = class_scores(confusion_CC, result["label_names"])
        yield from class_table(scores, console.columns_of(sys.stderr), indent="  ")


def accuracy_interval(confusion_CC: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy. It treats all documents as independent, even reviews of one film."""
    return wilson_interval(int(np.trace(confusion_CC)), int(confusion_CC.sum()))


def warnings_of(run: Run, result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning if the accuracy is misleading, and another warning if training has hardly reduced the loss.

    The second warning is for a training loss that is not far below `loss_of_guessing`.
    """
    if (warning := accuracy_warning(result["test/confusion_matrix"], result["label_names"])) is not None:
        yield f"test: {warning}"
    guessing = loss_of_guessing(run.corpus.train.labels)
    if is_plain_cross_entropy(run.config.loss) and result["train_loss"] > LEARNED_NOTHING * guessing:
        key, lr = learning_rate_of(run.config)
        relation = "close to" if result["train_loss"] < guessing else "not below"
        rate = "this optimizer" if lr is None else f"{key}={lr:g}"
        yield (
            f"training: the loss of the last epoch, {result['train_loss']:.3f}, is {relation} the loss of guessing, "
            f"{guessing:.3f}. {result['steps']:,} steps with {rate} were too few to learn: use more epochs or a larger "
            "learning rate."
        )


def is_plain_cross_entropy(loss: LossConfig) -> bool:
    """Return whether the training loss is the plain cross-entropy, which can be compared with `loss_of_guessing`."""
    is_changed = loss.label_smoothing > 0 or loss.class_weights is not None or loss.r_drop > 0
    return loss.target.endswith(".CrossEntropy") and not is_changed


def loss_of_guessing(labels_N: np.ndarray) -> float:
    """Return the cross-entropy in nats of a model that always predicts the frequencies of the classes."""
    return float(entr(np.bincount(labels_N) / len(labels_N)).sum())


def next_step(run: Run) -> str:
    """Return the next command: a comparison if the study has another finished run, else training with another head."""
    study, results = run.folder.study, run.folder.path.parent.glob("*/result.json")
    others = (RunFolder(path.parent) for path in results if path.parent != run.folder.path)
    if any(other.problem() is None for other in others):
        return f"python -m imdbcls.compare {study}"
    other = OTHER_HEAD.get(run.config.head.name, "lstm")
    return f"the same command with head={other}, then python -m imdbcls.compare {study}"


def log_calibration(result: Mapping[str, Any]) -> None:
    """Log the calibration error on test, before and after temperature scaling, or why the temperature stays 1."""
    value, reason = result["temperature"], result["temperature_reason"]
    if value == 1 and reason is not None:
        logger.info(
            f"  calibration error (ECE) on test {result['test/ece']:.4f}; no temperature scaling, because {reason}"
        )
        return
    note = "" if reason is None else f" ({reason})"
    logger.info(
        f"  calibration error (ECE) on test {result['test/ece']:.4f}, and {result['test/ece_calibrated']:.4f} with "
        f"temperature {value:.3g} from validation{note}"
    )


def log_trial(result: Mapping[str, Any]) -> None:
    """Log the validation metric of a trial and, if the trial was pruned, after which epoch."""
    metric = result["metric"]
    pruned = f", pruned after epoch {result['epochs']}" if result["status"] == "pruned" else ""
    logger.info(
        f"{result['name']}: validation {TITLES[metric]} {as_text(metric, result[f'val/{metric}'])} "
        f"({selected_epochs(result)}){pruned}; trained in {duration(result['train_seconds'])} (without validation), "
        "not evaluated on test"
    )
