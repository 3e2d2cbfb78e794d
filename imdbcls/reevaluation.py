"""Evaluate the weights of finished runs on a split again, and compare the metrics with the recorded metrics."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.ensemble import averaged, require_same_documents
from imdbcls.errors import UserError
from imdbcls.finished import load_finished, open_finished
from imdbcls.printable import printable_line, shown
from imdbcls.runs.data_origin import describe_source, read_from, require_own_source
from imdbcls.runs.files import json_text
from imdbcls.runtime.process import prepare_process

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.data.documents import Documents
    from imdbcls.runs.predictions import Predictions

logger = logging.getLogger(__name__)

SPLITS = {"test": "test", "validation": "val"}  # split → prefix of its metrics in result.json


def evaluate(
    run: Path,
    split: str = "test",
    *,
    plugins: Sequence[str] = (),
    device: str | None = None,
    data: str | None = None,
    trust_source: bool = False,
) -> dict[str, float]:
    """Evaluate the run's best weights on one split; return the metrics under their names in `result.json`.

    `data` is the path of the user's own copy of the documents. Without `data`, the documents are read from the source
    in the run's config. This is allowed if the user has trained on this source on this machine, or if `trust_source` is
    true. Log whether the metrics equal the recorded metrics.

    Raise UserError if the folder is not a finished run, if it contains links or invalid files, or if its data source
    is not trusted.
    """
    config, recorded = open_finished(run, plugins=plugins, device=device)
    config = with_source(config, run, data, trust_source)
    logger.info(f"{run}: loading the documents and the model")  # the imports below take seconds

    prepare_process()
    from imdbcls.models.environment import environment_of
    from imdbcls.runtime.progress import Progress

    finished = load_finished(run, config, recorded["label_names"])
    documents = read_split(config, recorded, split)
    predictions, _ = finished.predict(documents, on_progress=Progress(config.progress).for_split(split))
    metrics = metrics_on(split, predictions, recorded["label_names"])
    report_difference(metrics, recorded, environment_of(finished.hardware, None, finished.model))
    return metrics


def evaluate_ensemble(
    runs: Sequence[Path],
    split: str = "test",
    *,
    plugins: Sequence[str] = (),
    device: str | None = None,
    data: str | None = None,
    trust_source: bool = False,
) -> dict[str, float]:
    """Evaluate the mean of the runs' calibrated probabilities on one split; return the metrics.

    The runs must have been trained on the same documents. The other arguments are the same as for `evaluate`. The
    models are loaded one after another. Log the accuracy of each run.
    """
    from imdbcls.api import load_ensemble
    from imdbcls.runtime.progress import Progress

    ensemble = load_ensemble(runs, plugins=plugins, device=device)
    first = ensemble.runs[0]
    require_same_documents(ensemble.runs)
    config = with_source(first.config, first.folder, data, trust_source)
    logger.info(f"{' and '.join(map(str, runs))}: loading the documents and the models")
    prepare_process()
    documents = read_split(config, first.result, split)
    logger.info(
        f"Evaluating {len(runs)} runs takes {len(runs)} times as long as one run. One model at a time is in memory."
    )
    found = []
    for run in ensemble.runs:
        progress = Progress(config.progress).for_split(split)
        found.append(replace(run).predict_documents(documents, progress))  # the copy's model is freed afterwards
        logger.info(f"{run.folder.name}: {split} accuracy {found[-1].correct.mean():.2%}")
    return metrics_on(split, averaged(found), ensemble.label_names)


def with_source(config: "Config", run: Path, data: str | None, trust_source: bool) -> "Config":
    """Return the config with the documents at `data`, if given. Otherwise, require that this user trusts the source."""
    source = config.data.source.node
    if data is not None:
        return config.with_changes(data={"source": read_from(source, data)})
    if not trust_source:
        require_own_source(source, run)
    return config


def read_split(config: "Config", recorded: Mapping[str, Any], split: str) -> "Documents":
    """Return the documents of a split; raise UserError if they are not the documents of the run."""
    from imdbcls.construction import build_corpus

    try:
        corpus = build_corpus(config.data)
    except UserError as error:
        raise UserError(
            f"{error} If the data path is relative, run this command in the folder in which you started the training. "
            "Or read your own copy of the documents with --data PATH."
        ) from error
    if corpus.split_hash != recorded.get("split_hash") or list(corpus.label_names) != recorded["label_names"]:
        raise UserError(
            f"The documents differ from the run's documents: the split hash is {corpus.split_hash} instead of "
            f"{shown(recorded.get('split_hash'))}; {describe_source(config.data.source.node)} may have changed. "
            "Restore the original documents, or read a copy of them with --data PATH."
        )
    return corpus.test if split == "test" else corpus.validation


def metrics_on(split: str, predictions: "Predictions", label_names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a split. Log a warning if the accuracy is misleading."""
    from imdbcls.models.metrics import accuracy_warning, confusion_matrix, metrics_of

    labels_N, probabilities_NC = predictions.true_labels, predictions.known_probabilities
    confusion = confusion_matrix(labels_N, predictions.predicted, len(label_names))
    if (warning := accuracy_warning(confusion, tuple(label_names))) is not None:
        logger.warning(f"{split}: {warning}")
    return {f"{SPLITS[split]}/{name}": value for name, value in metrics_of(labels_N, probabilities_NC).items()}


def report_difference(metrics: dict[str, float], recorded: dict[str, Any], environment: dict[str, str]) -> None:
    """Log whether the metrics equal the recorded metrics. If not, also log what may be the cause."""
    values = json.loads(json_text(metrics))  # NaN is null, as in result.json
    unrecorded = [name for name in values if name not in recorded]
    different = [name for name in values if name in recorded and values[name] != recorded[name]]
    if unrecorded:
        logger.info(f"The run did not record {', '.join(unrecorded)}.")
    if not different and len(unrecorded) < len(values):
        logger.info("The metrics equal the recorded ones to the last digit.")
    for name in different:
        logger.info(f"{name} is {metrics[name]!r}, but the run recorded {shown(repr(recorded.get(name)))}.")
    if different:
        logger.info(explanation(recorded.get("environment"), environment))


def explanation(recorded: Any, environment: dict[str, str]) -> str:
    """Describe what may have changed the metrics; `recorded` is the untrusted `environment` of a run."""
    from imdbcls.runtime.environment import FEATURE_CACHE, differences

    if not isinstance(recorded, dict):
        return "The run did not record its environment, so the cause may be a different environment."
    now = {**environment, FEATURE_CACHE: "none"} if FEATURE_CACHE in recorded else environment
    before = {name: str(recorded[name]) for name in now if name in recorded}
    changes = [printable_line(change)[:200] for change in differences(before, now)]
    if not changes:
        return "Hardware, kernels and numerical settings are unchanged, so the code or a library has probably changed."
    return f"These differences from the run may be the cause: {'; '.join(changes)}."
