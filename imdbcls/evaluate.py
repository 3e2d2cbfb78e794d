"""Evaluate a finished run again: `python -m imdbcls.evaluate runs/heads/lstm-s0-1a2b3c4d --split test`.

The model is loaded from the run folder, and the documents are read from the run's data source. On the same machine with
the same software, the metrics equal the recorded metrics to the last digit. A run folder from someone else must not
choose which files and hub data sets are opened. So a data source that this user has never trained on is read only with
`--trust-source`.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from imdbcls.config.choices import Device
from imdbcls.errors import UserError
from imdbcls.finished import load_finished, open_finished
from imdbcls.printable import printable_line, shown
from imdbcls.runs.data_origin import describe_source, read_from, require_own_source
from imdbcls.runs.files import json_text
from imdbcls.runtime import entry
from imdbcls.runtime.console import write_out
from imdbcls.runtime.process import prepare_process

logger = logging.getLogger("imdbcls.evaluate")  # `__name__` is `__main__` in a command

SPLITS = {"test": "test", "validation": "val"}  # split → prefix of its metrics in result.json


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.evaluate", description="Evaluate a finished run again.")
    parser.add_argument("run", type=Path, help="the run folder, runs/<study>/<name>")
    parser.add_argument("others", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--split", choices=SPLITS, default="test", help="the split to evaluate (default: test)")
    parser.add_argument("--device", choices=get_args(Device), help="the device to use (default: the run's)")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of your own that the run uses"
    )
    parser.add_argument("--data", metavar="PATH", help="read the run's documents from your own copy at PATH")
    parser.add_argument(
        "--trust-source",
        action="store_true",
        help="read the documents from the run's data source, even if the run comes from someone else",
    )
    return parser


def main() -> None:
    arguments = argument_parser().parse_intermixed_args()
    if arguments.others:
        raise UserError(
            f"{arguments.others[0]}: evaluate accepts one run folder and uses the run's own documents. To "
            f"classify other documents, use: python -m imdbcls.predict {arguments.run} --file FILE"
        )
    metrics = evaluate(
        arguments.run,
        arguments.split,
        arguments.device,
        arguments.plugins,
        data=arguments.data,
        trust_source=arguments.trust_source,
    )
    write_out(json_text(metrics, indent=2))


def evaluate(
    run: Path,
    split: str,
    device: str | None = None,
    plugins: Sequence[str] = (),
    *,
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
    config, recorded = open_finished(run, device, plugins)
    source = config.data.source.node
    if data is not None:
        config = config.with_changes(data={"source": read_from(source, data)})
    elif not trust_source:
        require_own_source(source, run)

    prepare_process()
    from imdbcls.construction import build_corpus
    from imdbcls.models.environment import environment_of
    from imdbcls.models.metrics import accuracy_warning, confusion_matrix, metrics_of
    from imdbcls.runtime.progress import Progress

    finished = load_finished(run, config, recorded["label_names"])
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
    documents = corpus.test if split == "test" else corpus.validation
    predictions, _ = finished.predict(documents, on_progress=Progress(config.progress).for_split(split))
    labels_N, probabilities_NC = predictions.true_labels, predictions.known_probabilities
    metrics = {f"{SPLITS[split]}/{name}": value for name, value in metrics_of(labels_N, probabilities_NC).items()}
    confusion = confusion_matrix(labels_N, predictions.predicted, len(corpus.label_names))
    if (warning := accuracy_warning(confusion, corpus.label_names)) is not None:
        logger.warning(f"{split}: {warning}")
    report_difference(metrics, recorded, environment_of(finished.hardware, None, finished.model))
    return metrics


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
