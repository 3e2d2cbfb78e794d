"""Classify texts with a finished run: `python -m imdbcls.predict runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from a file (`--file reviews.csv`), or from stdin, one per line. The output has one
line of JSON or CSV, or one row of Parquet, per text, in input order. It contains the number of the text, its id if the
file has ids, the most probable class and the calibrated probability of each class (`--uncalibrated`: the model's own).
Texts are read and classified in chunks, so memory use does not depend on the size of the input. A row without a text
gets a null label. The command stops at a row that cannot be read. With `--output`, the same command continues after an
interruption (see `data.answer_file`).
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import contextlib
import hashlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

from imdbcls.config.choices import Device
from imdbcls.data.answer_file import AnswerFile, AnswerStream, Columns, Tally
from imdbcls.data.answers import FORMATS, Answer, Item, format_of, require_output
from imdbcls.data.columns import Delimiter, Quoting
from imdbcls.data.tables import require_table
from imdbcls.data.unlabeled import Texts, from_arguments, from_file, from_stdin, in_chunks, in_shard, request_for
from imdbcls.errors import UserError
from imdbcls.runtime import entry
from imdbcls.runtime.row_progress import RowProgress

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
    "such rows); 2 for a mistake in the command or a row that cannot be read (answers for earlier rows are written). "
    "With --output, the same command continues after an interruption. Until all rows are answered, the answers are in "
    "the folder FILE.part."
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
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="classify only the texts I, I + N, I + 2N, … (1/4 to 4/4 together classify all)",
    )
    parser.add_argument("--device", choices=get_args(Device), help="device to run on (default: from the run's config)")
    parser.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the run uses",
    )
    return parser


def shard(text: str) -> tuple[int, int]:
    """Parse `I/N` (argparse reports the error)."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, such as 1/4")
    return int(match[1]), int(match[2])


def predict(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Classify the texts that the arguments select, and write the answers.

    Raises UserError if options cannot be combined, if the run is not finished, if a row cannot be read, or if the
    output was begun by another command.
    """
    require_options(arguments)
    from imdbcls.api import load_run
    from imdbcls.data.token_counts import losses

    run = load_run(arguments.run, plugins=arguments.plugins, device=arguments.device)
    given = texts_of(arguments, stdin, run.config)
    with opened(arguments, stdout, run, given) as output:
        items = output.remaining(in_shard(given.items, arguments.shard))
        with progress_of(arguments, stdout, given, output.tally) as progress:
            for chunk in in_chunks(items, output.tally.num_rows):
                on_progress = progress.chunk(len(chunk), chunk[-1].number)
                output.write(*answer(chunk, run, on_progress, calibrated=not arguments.uncalibrated))
    tally = output.tally
    for loss in losses(tally.counts, run.config.max_length, what="texts") if tally.counts is not None else ():
        logger.warning(loss)
    if given.name is not None:
        texts = "1 row" if tally.num_rows == 1 else f"{tally.num_rows:,} rows"
        logger.info(f"Classified {texts} of {given.name}{null_labels_note(tally, given.unit)}.")


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


@contextlib.contextmanager
def opened(
    arguments: argparse.Namespace, stdout: TextIO, run: "FinishedRun", given: Texts
) -> Iterator[AnswerFile | AnswerStream]:
    """Open the output. Only a regular file can be continued, not stdout, a device or a pipe."""
    output, columns = arguments.output, Columns(run.label_names, given.copied, given.types)
    format_ = format_of(arguments.format, output)
    if output is None:
        yield AnswerStream(stdout, format_, columns)
    elif output.exists() and not output.is_file():
        if format_ == "parquet":
            raise UserError(f"--output={output} is not a regular file, so it cannot be written as Parquet.")
        with output.open("w", encoding="utf-8", newline="") as stream:
            yield AnswerStream(stream, format_, columns)
    else:
        command = {
            "run": hashlib.sha256((run.folder / "result.json").read_bytes()).hexdigest(),
            "device": run.config.device,
            "shard": list(arguments.shard),
            "calibration": not arguments.uncalibrated,
        }
        with AnswerFile(output, format_, columns, command).opened() as file:
            yield file


@contextlib.contextmanager
def progress_of(arguments: argparse.Namespace, stdout: TextIO, given: Texts, tally: Tally) -> Iterator[RowProgress]:
    """Show the progress in the block, unless the answers go to a terminal."""
    shows = arguments.output is not None or not stdout.isatty()
    progress = RowProgress(given.last_number() if shows else None, tally.num_rows, tally.last_number, shows=shows)
    try:
        yield progress
    finally:
        progress.close()


def answer(
    chunk: Sequence[Item], run: "FinishedRun", on_progress: Callable[[int, int], None], *, calibrated: bool
) -> "tuple[list[Answer], TokenCounts | None]":
    """Classify the texts of a chunk. Return one answer per item, and the token counts of the texts.

    The counts are None if no item has a text.
    """
    texts = [item.text for item in chunk if item.text is not None]
    if not texts:
        return [Answer(item, None, None) for item in chunk], None
    predictions, counts = run.predict_with_counts(texts, on_progress, calibrated=calibrated)
    found = iter(zip(predictions.names, predictions.known_probabilities.tolist(), strict=True))
    return [Answer(item, *((None, None) if item.text is None else next(found))) for item in chunk], counts


def null_labels_note(tally: Tally, unit: str) -> str:
    """Return the number of rows without a text, as the end of a sentence. Return "" if every row has a text."""
    if not tally.num_without_text:
        return ""
    rows = "1 has" if tally.num_without_text == 1 else f"{tally.num_without_text:,} have"
    return f"; {rows} no text and got a null label (first: {unit} {tally.first_without_text:,})"


if __name__ == "__main__":
    command()
