"""What a run says of itself: the lines at its start and end, and its `result.json`."""

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.token_counts import TokenCounts, losses, recorded, sum_of
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import count_parameters
from imdbcls.models.inference import Predictions
from imdbcls.models.metrics import confusion_matrix, doubt_about, metrics_of
from imdbcls.runs.content import content_of_model
from imdbcls.runs.folder import RunFolder
from imdbcls.runs.identity import choices_hash, config_hash, group_hash
from imdbcls.runs.record import checksums_of_predictions
from imdbcls.runtime.console import say, warn
from imdbcls.runtime.device import peak_memory_mb
from imdbcls.training.trainer import Trainer

DISTRIBUTIONS = (
    "imdbcls",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "hydra-core",
    "wandb",
    "numpy",
)
NUM_MISTAKES = 50  # of the test split, in W&B's table


def announce(
    config: Mapping[str, Any],
    folder: RunFolder,
    corpus: Corpus,
    backbone: Backbone,
    trainer: Trainer,
    counts: Mapping[str, TokenCounts],
) -> None:
    """Print what is trained on which data, what is lost of the texts, and where the run is stored."""
    for note in corpus.notes:
        say(note)
    for loss in losses(sum_of(counts.values()), config["max_length"]):
        warn(loss)
    sizes = f"{len(corpus.train):,} to train on, {len(corpus.validation):,} to validate, {len(corpus.test):,} to test"
    model, hardware = trainer.scored.model, trainer.hardware.describe()
    trainable = count_parameters(trainer.model, trainable=True)
    frozen = "" if trainable == count_parameters(trainer.model) else f"; {trainable:,} are trained"
    say(f"{folder.path.name}: head {config['head']['name']} on {config['backbone']['name']}, on {hardware}")
    if backbone.not_fast is not None and trainer.hardware.device.type == "cpu":
        say(f"{backbone.name}: no fast CPU layers in training: {backbone.not_fast}.")
    if backbone.not_unpadded is not None and trainer.hardware.device.type == "cuda":
        say(f"{backbone.name}: computed with its padding: {backbone.not_unpadded}.")
    say(f"{config['data']['name']}: {sizes} documents, {len(corpus.label_names)} classes")
    epochs = "1 epoch" if config["epochs"] == 1 else f"{config['epochs']} epochs"
    say(
        f"{trainer.num_steps:,} steps of {config['batch_size']} documents, {epochs}, "
        f"{count_parameters(model) / 1e6:.1f}M parameters ({count_parameters(model.head):,} in the head{frozen})"
    )


def result_of(
    config: Mapping[str, Any],
    folder: RunFolder,
    corpus: Corpus,
    trainer: Trainer,
    predictions: Mapping[str, Predictions],
    latency_ms: Mapping[str, float],
    counts: Mapping[str, TokenCounts],
) -> dict[str, Any]:
    """The content of `result.json` for a finished run. Times are in seconds, memory in MB (10^6 bytes).

    `latency_ms` is that of 25 documents, one at a time; `test/confusion_matrix` has true classes as rows.
    """
    state, hardware = trainer.state, trainer.hardware
    validation, test = metrics_of(predictions["validation"]), metrics_of(predictions["test"])
    return {
        **identity_of(config, folder),
        "status": "done",
        "split_hash": corpus.split_hash,
        "label_names": list(corpus.label_names),
        "watched_test": config["trainer"]["score_test_each_epoch"],
        "best_epoch": state.best_epoch,
        "stopped_early": state.epoch < trainer.epochs,
        **{f"val/{name}": value for name, value in validation.items()},
        **{f"test/{name}": value for name, value in test.items()},
        "test/confusion_matrix": confusion_matrix(predictions["test"]),
        "predictions_sha256": checksums_of_predictions(folder.path),
        "token_counts": recorded(counts),
        "test_documents": len(corpus.test),
        "train_documents": len(corpus.train),
        "parameters": count_parameters(trainer.scored.model),
        "trainable_parameters": count_parameters(trainer.model, trainable=True),
        "head_parameters": count_parameters(trainer.model.head),
        "steps": state.step,
        "micro_batch_size": state.micro_batch_size,  # less than asked for where memory did not suffice
        "train_seconds": state.train_seconds,
        "documents_per_second": state.documents / state.train_seconds,
        "tokens_per_second": state.tokens / state.train_seconds,
        "latency_ms": dict(latency_ms),
        "peak_memory_mb": peak_memory_mb(hardware.device),
        "hardware": hardware.describe(),
        "precision": hardware.precision,
        "environment": trainer.environment,
        "versions": versions(),
        "changes": state.changes,  # of hardware or software, while the run was interrupted
        "git_commit": git_commit(),
    }


def failed_result(config: Mapping[str, Any], folder: RunFolder, status: str, error: BaseException) -> dict[str, Any]:
    """The content of `result.json` for a run that ended early: `failed` or `interrupted`, and why."""
    lines = str(error).splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return {**identity_of(config, folder), "status": status, "error": reason, "versions": versions()}


def identity_of(config: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    return {
        "study": config["study"],
        "name": folder.path.name,
        "head": config["head"]["name"],
        "backbone": config["backbone"]["name"],
        "seed": config["seed"],
        "max_length": config["max_length"],
        "config_hash": config_hash(config),
        "group_hash": group_hash(config),
        "choices_hash": choices_hash(config),
        "backbone_content": content_of_model(config["backbone"].get("path") or config["backbone"]["name"]),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for distribution in DISTRIBUTIONS:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:  # run from a folder on PYTHONPATH
            continue
    return found


def git_commit() -> str | None:
    """The commit this package's code is of, `-dirty` where it was changed since; None from a wheel or without git."""
    package = Path(__file__).parent
    if shutil.which("git") is None:
        return None
    tracked = subprocess.run(
        ["git", "-C", str(package), "ls-files", "--error-unmatch", Path(__file__).name],
        capture_output=True,
        check=False,
    )
    if tracked.returncode != 0:
        return None
    command = ["git", "-C", str(package), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def worst_mistakes(
    documents: Documents, label_names: Sequence[str], predictions: Predictions
) -> list[dict[str, str | float]]:
    """The wrongly classified documents, the most confident first: id, text, label, prediction, its probability."""
    predicted = predictions.predicted
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    return [
        {
            "id": documents.ids[row],
            "text": documents.texts[row],
            "label": label_names[predictions.labels[row]],
            "prediction": label_names[predicted[row]],
            "probability": float(confidence[row]),
        }
        for row in wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    ]


def conclude(folder: RunFolder, result: Mapping[str, Any]) -> None:
    """Say what came out, where everything lies and what to type next."""
    standard_error = (result["test/accuracy"] * (1 - result["test/accuracy"]) / result["test_documents"]) ** 0.5
    watched = " (the test split was watched while training)" if result["watched_test"] else ""
    say(
        f"{result['name']}: validation accuracy {result['val/accuracy']:.2%} (best epoch {result['best_epoch']}), "
        f"test accuracy {result['test/accuracy']:.2%} ± {standard_error:.2%} standard error on "
        f"{result['test_documents']:,} documents{watched}"
    )
    if (doubt := doubt_about(result["test/confusion_matrix"], result["label_names"])) is not None:
        warn(f"{result['name']}, test: {doubt}")
    say(
        f"  trained in {result['train_seconds']:.0f} s, {result['documents_per_second']:.1f} documents/s, "
        f"peak memory {result['peak_memory_mb']:,.0f} MB; everything lies in {folder.path}"
    )
    say(f"  next: python -m imdbcls.evaluate {folder.path}, or the same with another head or seed in {folder.study}")
