"""Classify texts with a finished run: `python -m imdbcls.predict runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from a file (`--file reviews.csv`), or from stdin, one per line. The output has one
line of JSON or CSV per text, in input order. The line contains the number of the text, its id if the file has ids, the
most probable class and the calibrated probability of each class (`--uncalibrated`: the model's own). Texts are read
and classified in chunks of a thousand, so memory use does not depend on the size of the input. A row without a text
gets a null label. The command stops at a row that cannot be read; the answers for earlier rows are already written.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

from imdbcls.config.choices import Device
from imdbcls.data.answers import FORMATS, Item, Write, format_of, opened, require_output
from imdbcls.data.columns import Delimiter, Quoting
from imdbcls.data.tables import require_table
from imdbcls.data.unlabeled import Texts, from_arguments, from_file, from_stdin, in_chunks, request_for
from imdbcls.errors import UserError
from imdbcls.runtime import entry

if TYPE_CHECKING:
    from imdbcls.api import Config, FinishedRun
    from imdbcls.data.token_counts import TokenCounts

logger = logging.getLogger("imdbcls.predict")  # `__name__` is `__main__` in a command

FILE_OPTIONS = ("text_column", "id_column", "keep", "delimiter", "quoting")
DESCRIPTION = (
    "Classify texts with a finished run. The output has one answer per text. An answer starts with the number of its "
    "text: the position on the command line, the line number on stdin or in the file, or the row number in a Parquet "
    "file. Numbers start at 1."
)
EPILOG = (
    "Exit code: 0 if every row has an answer (a row without a text gets a null label, and stderr shows the number of "
    "such rows); 2 for a mistake in the command or a row that cannot be read (answers for earlier rows are written)."
)


def main() -> None:
    predict(parse(None), sys.stdin, sys.stdout)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.predict", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("texts", nargs="*", help="texts to classify (default: the lines of stdin, if --file is absent)")
    parser.add_argument("--file", type=Path, help="a .csv, .tsv, .jsonl, .ndjson or .parquet file of texts")
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        help="name of the column with the texts (default: the text column of the run's data, or text)",
    )
    parser.add_argument(
        "--id-column",
        metavar="NAME",
        help="column to copy into the answers as id (default: the id column of the run's data, if present)",
    )
    parser.add_argument("--keep", metavar="NAMES", help="columns to copy into the answers, separated by commas")
    parser.add_argument(
        "--delimiter", choices=get_args(Delimiter), help="delimiter of CSV and TSV files (default: auto)"
    )
    parser.add_argument(
        "--quoting",
        choices=get_args(Quoting),
        help="whether quotation marks enclose fields of CSV and TSV files (default: auto)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="file for the answers (default: stdout)")
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the answers (default: from the extension of --output, else jsonl)"
    )
    parser.add_argument(
        "--uncalibrated",
        action="store_true",
        help="write the model's own probabilities, without the temperature that was fitted on validation",
    )
    parser.add_argument("--device", choices=get_args(Device), help="device to run on (default: from the run's config)")
    parser.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the run uses",
    )
    return parser.parse_intermixed_args(arguments)  # options may appear between the run and the texts


def predict(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Classify the texts that the arguments select, and write the answers.

    Raises UserError if options cannot be combined, if the run is not finished, or if a row cannot be read.
    """
    require_options(arguments)
    from imdbcls.api import load_run
    from imdbcls.data.token_counts import losses, sum_of

    run = load_run(arguments.run, plugins=arguments.plugins, device=arguments.device)
    given = texts_of(arguments, stdin, run.config)
    num_texts, without_text = 0, list[int]()
    counts: list[TokenCounts] = []
    with opened(arguments.output, stdout) as file:
        write = FORMATS[format_of(arguments.format, arguments.output)](file, run.label_names, given.copied)
        for chunk in in_chunks(given.items):
            counts += answer(chunk, run, write, calibrated=not arguments.uncalibrated)
            file.flush()
            without_text += [item.number for item in chunk if item.text is None]
            num_texts += len(chunk)
    for loss in losses(sum_of(counts), run.config.max_length, what="texts") if counts else ():
        logger.warning(loss)
    if given.name is not None:
        texts = "1 row" if num_texts == 1 else f"{num_texts:,} rows"
        logger.info(f"Classified {texts} of {given.name}{null_labels_note(without_text, given.unit)}.")


def require_options(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that cannot be combined, before anything is loaded."""
    if arguments.file is not None and arguments.texts:
        raise UserError("Pass texts either on the command line or in --file, not both.")
    unused = [f"--{name.replace('_', '-')}" for name in FILE_OPTIONS if getattr(arguments, name) is not None]
    if arguments.file is None and unused:
        raise UserError(f"{', '.join(unused)} can only be used with --file.")
    if arguments.file is not None:
        require_table(arguments.file, "--file")
    if arguments.output is not None:
        require_output(arguments.output, arguments.file)


def texts_of(arguments: argparse.Namespace, stdin: TextIO, config: "Config") -> Texts:
    """Return the texts from the command line, `--file` or stdin. Columns default to those of the run's data."""
    if arguments.file is None:
        return from_arguments(arguments.texts) if arguments.texts else from_stdin(stdin)
    options: dict[str, Any] = {name: getattr(arguments, name) for name in FILE_OPTIONS}
    return from_file(arguments.file, request_for(arguments.file, config.data.source.arguments, **options))


def answer(chunk: Sequence[Item], run: "FinishedRun", write: Write, *, calibrated: bool = True) -> "list[TokenCounts]":
    """Classify the texts of a chunk, and write one answer per item. The probabilities are calibrated by default.

    Returns a list with the token counts of these texts. The list is empty if no item has a text.
    """
    texts = [item.text for item in chunk if item.text is not None]
    found: Iterator[tuple[str, list[float]]] = iter(())
    counts: list[TokenCounts] = []
    if texts:
        predictions, counts_of_chunk = run.predict_with_counts(texts, calibrated=calibrated)
        counts = [counts_of_chunk]
        found = zip(predictions.names, predictions.known_probabilities.tolist(), strict=True)
    for item in chunk:
        label, probabilities = (None, None) if item.text is None else next(found)
        write(item, label, probabilities)
    return counts


def null_labels_note(without_text: Sequence[int], unit: str) -> str:
    """Return the number of rows without a text, as the end of a sentence. Return "" if every row has a text."""
    if not without_text:
        return ""
    rows = "1 has" if len(without_text) == 1 else f"{len(without_text):,} have"
    return f"; {rows} no text and got a null label (first: {unit} {without_text[0]:,})"


if __name__ == "__main__":
    entry.run(main)
