"""Console summaries of a run, and the content of its `result.json`."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdbcls.config.schema import Config
from imdbcls.data.token_counts import losses, recorded, sum_of
from imdbcls.models.classifier import count_parameters
from imdbcls.models.inference import predictions_of
from imdbcls.models.metrics import confusion_matrix, expected_calibration_error, metrics_of
from imdbcls.models.temperature import apply_temperature, fit_temperature
from imdbcls.printable import counted
from imdbcls.runs.predictions import Predictions, write_predictions
from imdbcls.runs.record import checksums_of_predictions, path_of_predictions
from imdbcls.runs.selection import DEFAULT, LOWER_IS_BETTER, TITLES
from imdbcls.runtime.command_line import command_line
from imdbcls.runtime.device import peak_memory_mb
from imdbcls.runtime.versions import git_commit, versions
from imdbcls.training.run import Run

logger = logging.getLogger(__name__)

NUM_MISTAKES = 50  # rows of the W&B table of test mistakes


def log_start(run: Run) -> None:
    """Log the model, the data and the number of steps.

    Warn about truncated documents, unknown tokens, and an encoder that may have been trained on held-out documents.
    Also warn about a learning rate that is too low for a frozen encoder, except in a trial, where a search chose it.
    """
    config, corpus, trainer, backbone = run.config, run.corpus, run.trainer, run.backbone
    if not trainer.control.is_trial and (warning := low_rate_warning(config)) is not None:
        logger.warning(warning)
    warn_of_seen_documents(run)
    for note in corpus.notes:
        logger.info(note)
    for loss in losses(sum_of(run.token_counts.values()), config.max_length, config.data.truncation):
        logger.warning(loss)
    size, head_size = count_parameters(run.model), count_parameters(run.model.head)
    trainable = count_parameters(trainer.model, trainable=True)
    frozen = "" if trainable == count_parameters(trainer.model) else f"; {trainable:,} are trained"
    hardware, device = run.hardware.describe(), run.hardware.device.type
    logger.info(
        f"head {config.head.name} on {config.backbone.name}: {size / 1e6:.1f}M parameters "
        f"({head_size:,} in the head{frozen}), on {hardware}"
    )
    if backbone.cpu_fallback_reason is not None and device == "cpu":
        logger.info(f"{backbone.name}: training does not use the fast CPU layers: {backbone.cpu_fallback_reason}.")
    if backbone.cuda_fallback_reason is not None and device == "cuda":
        logger.info(f"{backbone.name}: the encoder also processes padding tokens: {backbone.cuda_fallback_reason}.")
    sizes = f"{len(corpus.train):,} training, {len(corpus.validation):,} validation and {len(corpus.test):,} test"
    logger.info(f"{config.data.name}: {sizes} documents, {len(corpus.label_names)} classes")
    steps = f"{counted(trainer.num_steps, 'step')} of {counted(config.batch_size, 'document')}"
    logger.info(f"{steps}, {counted(config.epochs, 'epoch')}")
    if (num_epochs := config.trainer.head_first_epochs) > 0:
        first = "first epoch trains" if num_epochs == 1 else f"first {num_epochs} epochs train"
        logger.info(f"trainer.head_first_epochs={num_epochs}: the {first} only the head")
    if config.metric != DEFAULT:
        best = "lowest" if config.metric in LOWER_IS_BETTER else "highest"
        logger.info(f"metric={config.metric}: the best epoch has the {best} {TITLES[config.metric]} on validation")


def warn_of_seen_documents(run: Run) -> None:
    """Log a warning if the encoder comes from a run that may have been trained on documents that are now held out."""
    if run.encoder_source is not None and (warning := run.encoder_source.warning) is not None:
        logger.warning(warning)


def low_rate_warning(config: Config) -> str | None:
    """Return a warning if only the head is trained and its learning rate is not above `recommended_lr`, else None."""
    (key, lr), recommended = learning_rate_of(config), config.backbone.recommended_lr
    if config.backbone.freeze is not True or lr is None or lr * config.optimizer.head_lr > recommended:
        return None
    return (
        f"backbone.freeze=true trains only the head, with a learning rate of {lr * config.optimizer.head_lr:g}. For "
        f"{config.backbone.name}, rates up to {recommended:g} are usual for training the encoder. A head on a frozen "
        f"encoder usually needs a higher rate: try {key}=1e-3."
    )


def learning_rate_of(config: Config) -> tuple[str, float | None]:
    """Return the key that sets the optimizer's learning rate, and the rate; None if the optimizer has no `lr`."""
    lr = config.optimizer.arguments.get("lr")
    return "lr" if lr == config.lr else "optimizer.lr", lr


def record_predictions(run: Run, probabilities: Mapping[str, NDArray[np.float64]]) -> dict[str, Predictions]:
    """Write the predictions for each split to the run folder, and return the predictions."""
    label_names, predictions = run.corpus.label_names, {}
    for split, probabilities_NC in probabilities.items():
        found = predictions_of(run.corpus.splits[split], run.tokens[split], probabilities_NC, label_names)
        write_predictions(path_of_predictions(run.folder.path, split), found)
        predictions[split] = found
    return predictions


def result_of(run: Run, predictions: Mapping[str, Predictions], latency_ms: Mapping[str, float]) -> dict[str, Any]:
    """Return the content of `result.json` for a finished run, without the fields of `identity_of`.

    `latency_ms` contains percentiles in milliseconds from `measure_latency`. The unit of `peak_memory_mb` is 10^6
    bytes. The rows of `test/confusion_matrix` are the true classes. The predictions must already be on disk, because
    the result contains their checksums.
    """
    corpus, validation, test = run.corpus, predictions["validation"], predictions["test"]
    return {
        "status": "done",
        **classification_of(run),
        **split_metrics("val", validation),
        **split_metrics("test", test),
        **calibration_metrics(validation, test),
        "test/confusion_matrix": confusion_matrix(test.true_labels, test.predicted, len(corpus.label_names)),
        **({} if test.parts is None else {"test/parts": accuracy_of_parts(test)}),
        "predictions_sha256": checksums_of_predictions(run.folder.path),
        "token_counts": recorded(run.token_counts),
        "test_documents": len(corpus.test),
        "train_documents": len(corpus.train),
        **training_of(run),
        "latency_ms": dict(latency_ms),
    }


def result_of_trial(run: Run, probabilities_NC: NDArray[np.float64]) -> dict[str, Any]:
    """Return the content of `result.json` for a finished or pruned trial, from the probabilities on validation.

    The fields of `identity_of` are not included.
    """
    labels_N = run.trainer.batches.validation.labels
    metrics = metrics_of(labels_N, probabilities_NC)
    return {
        "status": "pruned" if run.trainer.is_pruned else "trial",
        **classification_of(run),
        "epochs": run.trainer.state.epoch,
        **{f"val/{name}": value for name, value in metrics.items()},
        "val/confusion_matrix": confusion_matrix(
            labels_N, probabilities_NC.argmax(axis=1), len(run.corpus.label_names)
        ),
        "train_documents": len(run.corpus.train),
        **training_of(run),
    }


def classification_of(run: Run) -> dict[str, Any]:
    """Return the classes, whether the test split was evaluated during training, and the fields of `selection_of`."""
    return {
        "label_names": list(run.corpus.label_names),
        "watched_test": run.trainer.settings.watch_test,
        **selection_of(run),
    }


def selection_of(run: Run) -> dict[str, Any]:
    """Return when the run ended, the hashes of its documents, the origin of its encoder, and its best epoch."""
    trainer, state = run.trainer, run.trainer.state
    return {
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "split_hash": run.corpus.split_hash,
        "held_out_hash": run.corpus.held_out_hash,
        **({} if run.encoder_source is None else {"encoder_source": run.encoder_source.fields}),
        "metric": trainer.settings.metric,
        "best_epoch": state.best_epoch,
        **({"soup_epochs": list(trainer.soup_epochs)} if trainer.settings.greedy_soup else {}),
        "stopped_early": state.epoch < trainer.settings.epochs,
    }


def training_of(run: Run) -> dict[str, Any]:
    """Return the fields that describe the model's size, the cost of training and the environment."""
    trainer, state, profiled = run.trainer, run.trainer.state, run.config.trainer.profile_steps
    return {
        "parameters": count_parameters(run.model),
        "trainable_parameters": count_parameters(trainer.model, trainable=True),
        "head_parameters": count_parameters(trainer.model.head),
        "steps": state.step,
        "train_loss": state.last_loss,  # mean over the steps of the last epoch
        "micro_batch_size": state.micro_batch_size,  # smaller than in the config if memory ran out
        "train_seconds": state.train_seconds,
        "documents_per_second": state.documents / state.train_seconds,
        "tokens_per_second": state.tokens / state.train_seconds,
        **({"profiled_steps": profiled} if profiled is not None else {}),  # the times above include these slower steps
        "peak_memory_mb": peak_memory_mb(run.hardware.device),
        "hardware": run.hardware.describe(),
        "precision": run.hardware.precision,
        "environment": dict(run.environment),
        "versions": versions(),
        "changes": state.changes,  # hardware or software changes while the run was interrupted
        "git_commit": git_commit(),
        "command": command_line(),
    }


def split_metrics(split: str, predictions: Predictions) -> dict[str, float]:
    metrics = metrics_of(predictions.true_labels, predictions.known_probabilities)
    return {f"{split}/{name}": value for name, value in metrics.items()}


def calibration_metrics(validation: Predictions, test: Predictions) -> dict[str, Any]:
    """Return the temperature, fitted on the validation split, and the calibration errors that result from it.

    If the temperature does not minimize the validation loss, `temperature_reason` contains the reason; else it is None.
    `val/ece_calibrated` is computed on the documents on which the temperature was fitted, `test/ece_calibrated` on
    other documents.
    """
    found = fit_temperature(validation.true_labels, validation.known_probabilities)
    errors = {}
    for split, predictions in (("val", validation), ("test", test)):
        calibrated_NC = apply_temperature(predictions.known_probabilities, found.value)
        errors[f"{split}/ece_calibrated"] = expected_calibration_error(predictions.true_labels, calibrated_NC)
    return {"temperature": found.value, "temperature_reason": found.reason, **errors}


def accuracy_of_parts(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Return the accuracy and the number of documents of each part of the test split, keyed by the part's name."""
    assert predictions.parts is not None
    rows = {name: predictions.correct[predictions.parts == name] for name in sorted(set(predictions.parts))}
    return {name: {"accuracy": float(correct.mean()), "documents": len(correct)} for name, correct in rows.items()}


def worst_mistakes(run: Run, predictions: Predictions) -> list[dict[str, str | float]]:
    """Return up to NUM_MISTAKES misclassified test documents as rows of a W&B table, most confident predictions first.

    Each row has `id`, `text`, `label`, `prediction` and the `probability` of the prediction.
    """
    documents, label_names = run.corpus.test, run.corpus.label_names
    predicted = predictions.predicted
    confidence = predictions.known_probabilities.max(axis=1)
    wrong = np.flatnonzero(~predictions.correct)
    return [
        {
            "id": documents.ids[row],
            "text": documents.shown(row),
            "label": label_names[predictions.true_labels[row]],
            "prediction": label_names[predicted[row]],
            "probability": float(confidence[row]),
        }
        for row in wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    ]
