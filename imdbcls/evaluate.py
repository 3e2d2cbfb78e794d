"""Evaluate a finished run again: `python -m imdbcls.evaluate runs/heads/lstm-s0-1a2b3c4d --split test`.

The model is loaded from the run folder, and the documents are read from the run's data source. On the same machine with
the same software, the metrics equal the recorded metrics to the last digit. A run folder from someone else must
not choose which files and hub datasets are opened. So a data source that this user has never trained on is read only
with `--trust-source`. With several run folders, the runs' calibrated probabilities are averaged (see `ensemble`).

With `--file`, the runs are scored on the labelled documents of a file instead. A terminal shows a classification report
and a confusion matrix; a pipe or a file gets them as JSON.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from imdbcls.config.run_options import add_run_options
from imdbcls.data.table_paths import require_table
from imdbcls.data.text_arguments import add_column_options
from imdbcls.ensemble import averaged, leading_folders, require_same_columns
from imdbcls.errors import UserError
from imdbcls.reevaluation import SPLITS, evaluate, evaluate_ensemble
from imdbcls.runs.files import json_text
from imdbcls.runtime import entry
from imdbcls.runtime.console import columns_of, write_out

logger = logging.getLogger("imdbcls.evaluate")  # `__name__` is `__main__` in a command

READ_OPTIONS = ("text_column", "pair_column", "label_column", "delimiter", "quoting", "encoding")
FILE_OPTIONS = (*READ_OPTIONS, "map", "skip_empty", "json")  # options that need --file


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.evaluate", description="Evaluate a finished run again.")
    parser.add_argument("run", type=Path, help="the run folder, runs/<study>/<name>")
    parser.add_argument(
        "others",
        nargs="*",
        default=[],
        metavar="run",
        help="more runs, to evaluate the mean of the probabilities of all runs",
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
        "--label-column",
        metavar="NAME",
        help="name of the column with the labels (default: the label column of the run's data)",
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
    parser.add_argument("--json", action="store_true", help="with --file: write JSON, even on a terminal")
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
    """Before anything is loaded, raise UserError if options cannot be combined."""
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

    options: dict[str, Any] = {"plugins": arguments.plugins, "device": arguments.device}
    ensemble = None if len(runs) == 1 else load_ensemble(runs, **options)
    loaded = [load_run(runs[0], **options)] if ensemble is None else list(ensemble.runs)
    first = loaded[0]
    read_options = {name: getattr(arguments, name) for name in READ_OPTIONS}
    require_same_columns(loaded, arguments.file, read_options)
    logger.info(f"{' and '.join(map(str, runs))}: loading the model and {arguments.file}")  # the imports take seconds
    from imdbcls.data.labelled import read_labelled
    from imdbcls.models.scores import report, scores_of
    from imdbcls.runtime.progress import Progress

    documents, notes = read_labelled(
        arguments.file,
        first.config.data.source.arguments,
        first.label_names,
        class_of_label=dict(arguments.map or ()),
        **read_options,
        skip_empty=bool(arguments.skip_empty),
        spelling="option",
    )
    for note in notes:
        logger.info(note)
    found = []
    calibrated = ensemble is not None
    for run in loaded:
        on_progress = Progress(run.config.progress).for_split("file")
        model = replace(run)  # the weights that this copy loads are freed afterwards
        found.append(model.predict_documents(documents, on_progress, calibrated=calibrated, cache_tokens=False))
    scores = scores_of(found[0] if ensemble is None else averaged(found))
    if scores.warning is not None:
        logger.warning(f"{arguments.file}: {scores.warning}")
    if arguments.json or not stdout.isatty():
        names = [run.folder.name for run in loaded]
        about = {"file": str(arguments.file), "runs": names, "calibrated": calibrated}
        stdout.write(json_text({**about, **scores.plain()}, indent=2) + "\n")
    else:
        write_out("\n".join(report(scores, columns_of(stdout), calibrated=calibrated)))


if __name__ == "__main__":
    command()
