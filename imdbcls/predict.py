"""Classify texts with finished runs: `python -m imdbcls.predict runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from a file (`--file reviews.csv`), or from stdin, one per line. The output has one
answer per text, in input order: a line of JSON, CSV or plain text, or a row of Parquet. An answer contains the number
of the text, its id if the file has ids, the most probable class, and the probability of each class (in plain text, only
the highest probabilities). Probabilities are calibrated, except with `--uncalibrated`. Texts are read and classified in
chunks, so memory use does not depend on the size of the input. A row without a text gets a null label. The command
stops at a row that cannot be read. With `--output`, the same command continues after an interruption (see
`data.answer_file`). The probabilities of several runs are averaged.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from imdbcls.bulk import Target, classify
from imdbcls.config.run_options import add_run_options
from imdbcls.data.answer_file import Tally
from imdbcls.data.answers import FORMATS
from imdbcls.data.text_arguments import add_column_options, column_options, require_text_options, texts_of
from imdbcls.ensemble import Ensemble, leading_folders, require_same_columns, runs_of
from imdbcls.printable import counted
from imdbcls.runtime import entry

logger = logging.getLogger("imdbcls.predict")  # `__name__` is `__main__` in a command

DESCRIPTION = (
    "Classify texts with a finished run, or with the mean of several runs. The output has one answer per text. An "
    "answer starts with the number of its text: the position on the command line, the line number on stdin or in the "
    "file, or the row number in a Parquet file. Numbers start at 1."
)
EPILOG = (
    "Exit code: 0 if every row has an answer; 2 for a mistake in the command or a row that cannot be read. A row "
    "without a text gets a null label, and stderr shows the number of such rows. If a row cannot be read, the answers "
    "for earlier rows are written. With --output, the same command continues after an interruption. Until all rows are "
    "answered, the answers are in the folder FILE.part."
)


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    predict(parse(None), sys.stdin, sys.stdout)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    # Options may appear between the run and the texts.
    return argument_parser().parse_intermixed_args(arguments)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.predict", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument(
        "texts",
        nargs="*",
        default=[],
        help="folders of more runs, to average the probabilities of all runs, followed by the texts to classify "
        "(default: the lines of stdin, if --file is absent)",
    )
    add_column_options(parser)
    parser.add_argument("--keep", metavar="NAMES", help="columns to copy into the answers, separated by commas")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file for the answers (default: stdout)")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the answers (default: the extension of --output, else text on a terminal and jsonl elsewhere)",
    )
    parser.add_argument(
        "--uncalibrated",
        action="store_true",
        help="write the model's own probabilities, without the temperature that was fitted on validation",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="classify only the texts I, I + N, I + 2N, … (1/4 to 4/4 together classify all)",
    )
    add_run_options(parser)
    return parser


def shard(text: str) -> tuple[int, int]:
    """Parse `I/N` (argparse reports the error)."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, such as 1/4")
    return int(match[1]), int(match[2])


def predict(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Classify the texts that the arguments select, and write the answers.

    Raise UserError if options cannot be combined, if the run is not finished, if a row cannot be read, or if the
    output was begun by another command.
    """
    folders, arguments.texts = leading_folders([str(arguments.run), *arguments.texts])
    folders, arguments.texts = folders or [arguments.run], arguments.texts if folders else arguments.texts[1:]
    require_text_options(arguments)
    from imdbcls.api import load_ensemble, load_run
    from imdbcls.data.token_counts import losses

    options: dict[str, Any] = {"plugins": arguments.plugins, "device": arguments.device}
    model = load_run(folders[0], **options) if len(folders) == 1 else load_ensemble(folders, **options)
    runs = runs_of(model)
    config = runs[0].config
    if arguments.file is not None:
        require_same_columns(runs, arguments.file, column_options(arguments))
    if isinstance(model, Ensemble):
        logger.info(model.cost)
    given = texts_of(arguments, stdin, config.data.source.arguments)
    target = Target(arguments.output, stdout, arguments.format)
    logger.info(f"{' and '.join(map(str, folders))}: loading the model")  # PyTorch and the weights take seconds
    tally = classify(given, model, target, shard=arguments.shard, calibrated=not arguments.uncalibrated)
    if tally.counts is not None:
        for loss in losses(tally.counts, config.max_length, config.data.truncation, what="texts"):
            logger.warning(loss)
    if given.name is not None:
        logger.info(
            f"Classified {counted(tally.num_rows, 'row')} of {given.name}{null_labels_note(tally, given.unit)}."
        )


def null_labels_note(tally: Tally, unit: str) -> str:
    """Return the number of rows without a text, as the end of a sentence. Return "" if every row has a text."""
    if not tally.num_without_text:
        return ""
    rows = "1 has" if tally.num_without_text == 1 else f"{tally.num_without_text:,} have"
    return f"; {rows} no text and got a null label (first: {unit} {tally.first_without_text:,})"


if __name__ == "__main__":
    command()
