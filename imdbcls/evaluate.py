"""Evaluate a finished run again: `python -m imdbcls.evaluate runs/heads/lstm-s0-1a2b3c4d --split test`.

The model is loaded from the run folder, and the documents are read from the run's data source. On the same machine with
the same software, the metrics equal the recorded metrics to the last digit. A run folder from someone else must not
choose which files and hub data sets are opened. So a data source that this user has never trained on is read only with
`--trust-source`. With several run folders, the runs' calibrated probabilities are averaged (see `ensemble`).

With `--file`, the runs are scored on the labelled documents of a file instead. A terminal shows a classification report
and a confusion matrix; a pipe or a file gets them as JSON.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from imdbcls.config.run_options import add_run_options
from imdbcls.data.table_paths import require_table
from imdbcls.data.text_arguments import add_column_options
from imdbcls.ensemble import averaged, leading_folders, require_same_documents
from imdbcls.errors import UserError
from imdbcls.finished import load_finished, open_finished
from imdbcls.printable import printable_line, shown
from imdbcls.runs.data_origin import describe_source, read_from, require_own_source
from imdbcls.runs.files import json_text
from imdbcls.runtime import entry
from imdbcls.runtime.console import columns_of, write_out
from imdbcls.runtime.process import prepare_process

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.data.documents import Documents
    from imdbcls.runs.predictions import Predictions

logger = logging.getLogger("imdbcls.evaluate")  # `__name__` is `__main__` in a command

READ_OPTIONS = ("text_column", "pair_column", "label_column", "delimiter", "quoting", "encoding")
FILE_OPTIONS = (*READ_OPTIONS, "map", "skip_empty", "json")  # options that need --file
SPLITS = {"test": "test", "validation": "val"}  # split → prefix of its metrics in result.json


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.evaluate", description="Evaluate a finished run again.")
    parser.add_argument("run", type=Path, help="the run folder, runs/<study>/<name>")
    parser.add_argument(
        "others", nargs="*", metavar="run", help="more runs, to evaluate the mean of their probabilities"
    )
    parser.add_argument("--split", choices=SPLITS, help="the split to evaluate (default: test)")
    add_run_options(parser)
    parser.add_argument("--data", metavar="PATH", help="read the run's documents from your own copy at PATH")
    parser.add_argument(
        "--trust-source",
        action="store_true",
        help="read the documents from the run's data source, even if the run comes from someone else",
    )
    add_column_options(
        parser, "score the runs on the labelled documents of this file instead of a split", with_ids=False
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="name of the column with the labels (default: the run's)"
    )
    parser.add_argument(
        "--map",
        action="append",
        type=mapping,
        metavar="LABEL=CLASS",
        help="read a label in the file as a class of the run, such as 0=negative (can be repeated)",
    )
    parser.add_argument(
        "--skip-empty", action="store_true", default=None, help="skip rows of the file without a text or label"
    )
    parser.add_argument("--json", action="store_true", help="with --file: write JSON on a terminal, too")
    return parser


def mapping(text: str) -> tuple[str, str]:
    """Parse `LABEL=CLASS` (argparse reports the error)."""
    label, sign, name = text.partition("=")
    if not label or not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=CLASS, such as 0=negative")
    return label, name


def main() -> None:
    arguments = argument_parser().parse_intermixed_args()
    others, unknown = leading_folders(arguments.others)
    if unknown:
        raise UserError(
            f"{unknown[0]} is not a run folder. To score the runs on a file of labelled documents, use: python -m "
            f"imdbcls.evaluate {arguments.run} --file {unknown[0]}"
        )
    runs = [arguments.run, *others]
    require_options(arguments)
    if arguments.file is not None:
        evaluate_file(runs, arguments, sys.stdout)
        return
    split = arguments.split or "test"
    options = {name: getattr(arguments, name) for name in ("plugins", "device", "data", "trust_source")}
    metrics = evaluate_ensemble(runs, split, **options) if others else evaluate(runs[0], split, **options)
    write_out(json_text(metrics, indent=2))


def require_options(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that cannot be combined, before anything is loaded."""
    of_file = [name for name in FILE_OPTIONS if getattr(arguments, name) not in (None, False)]
    of_split = [name for name in ("split", "data", "trust_source") if getattr(arguments, name) not in (None, False)]
    if arguments.file is None and of_file:
        raise UserError(f"--{of_file[0].replace('_', '-')} can only be used with --file.")
    if arguments.file is not None:
        if of_split:
            raise UserError(f"--{of_split[0].replace('_', '-')} cannot be used with --file, which replaces the split.")
        require_table(arguments.file, "--file")


def evaluate_file(runs: Sequence[Path], arguments: argparse.Namespace, stdout: TextIO) -> None:
    """Score runs on a file of labelled documents, and write the scores as a report or as JSON."""
    from imdbcls.api import load_ensemble, load_run
    from imdbcls.data.labelled import read_labelled
    from imdbcls.models.scores import report, scores_of
    from imdbcls.runtime.progress import Progress

    options: dict[str, Any] = {"plugins": arguments.plugins, "device": arguments.device}
    ensemble = None if len(runs) == 1 else load_ensemble(runs, **options)
    loaded = [load_run(runs[0], **options)] if ensemble is None else list(ensemble.runs)
    first = loaded[0]
    documents, notes = read_labelled(
        arguments.file,
        first.config.data.source.arguments,
        first.label_names,
        class_of_label=dict(arguments.map or ()),
        **{name: getattr(arguments, name) for name in READ_OPTIONS},
        skip_empty=bool(arguments.skip_empty),
        spelling="option",
    )
    for note in notes:
        logger.info(note)
    found = []
    for run in loaded:
        on_progress = Progress(run.config.progress).for_split("file")
        calibrated = ensemble is not None
        model = replace(run)  # its loaded weights are freed afterwards
        found.append(model.predict_documents(documents, on_progress, calibrated=calibrated, cache_tokens=False))
    scores = scores_of(found[0] if ensemble is None else averaged(found))
    if scores.warning is not None:
        logger.warning(f"{arguments.file}: {scores.warning}")
    if arguments.json or not stdout.isatty():
        names = [run.folder.name for run in loaded]
        stdout.write(json_text({"file": str(arguments.file), "runs": names, **scores.plain()}, indent=2) + "\n")
    else:
        write_out("\n".join(report(scores, columns_of(stdout))))


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

    `data` is the path of the user's own copy of the documents. Without it, the documents are read from the source in
    the run's config, if this user has trained on that source on this machine or `trust_source` is true. Logs whether
    the metrics equal the recorded metrics.

    Raises UserError if the folder is not a finished run, if it contains links or invalid files, or if its data source
    is not trusted.
    """
    config, recorded = open_finished(run, plugins=plugins, device=device)
    config = with_source(config, run, data, trust_source)

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

    The runs must have been trained on the same documents. The other arguments are those of `evaluate`. The models are
    loaded one after another. Logs the accuracy of each run.
    """
    from imdbcls.api import load_ensemble
    from imdbcls.runtime.progress import Progress

    ensemble = load_ensemble(runs, plugins=plugins, device=device)
    first = ensemble.runs[0]
    require_same_documents(ensemble.runs)
    config = with_source(first.config, first.folder, data, trust_source)
    prepare_process()
    documents = read_split(config, first.result, split)
    logger.info(
        f"Evaluating {len(runs)} runs takes {len(runs)} times as long as one; one model at a time is in memory."
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
    """Return the documents of a split; raise UserError if they differ from those that the run recorded."""
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
            f"{shown(recorded.get('split_hash'))}; {describe_source(config.data.source.node)} may have changed."
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
    """Log whether the metrics equal the recorded metrics. If not, also log how the environments differ."""
    values = json.loads(json_text(metrics))  # NaN is null, as in result.json
    unrecorded = [name for name in values if name not in recorded]
    different = [name for name in values if name in recorded and values[name] != recorded[name]]
    if unrecorded:
        logger.info(f"The run did not record {', '.join(unrecorded)}.")
    if not different:
        logger.info("The metrics equal the recorded ones to the last digit.")
    for name in different:
        logger.info(f"{name} is {metrics[name]!r}, but the run recorded {shown(repr(recorded.get(name)))}.")
    if different:
        logger.info(explanation(recorded.get("environment"), environment))


def explanation(recorded: Any, environment: dict[str, str]) -> str:
    """Describe what may have changed the metrics; `recorded` is the untrusted `environment` of a run."""
    from imdbcls.runtime.environment import differences

    if not isinstance(recorded, dict):
        return "The run did not record its environment, so the cause may be a different environment."
    before = {name: str(recorded[name]) for name in environment if name in recorded}
    changes = [printable_line(change)[:200] for change in differences(before, environment)]
    if not changes:
        return "Hardware, kernels and numerical settings are unchanged, so the code or a library has probably changed."
    return f"These changes in the environment since the run may be the cause: {'; '.join(changes)}."


if __name__ == "__main__":
    command()
