"""Classify texts by a finished run: `python -m imdbcls.predict runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from a file (`--file reviews.csv`), or from stdin, one a line. For each, in its order,
a line of JSON (or CSV) on stdout: its number, its most probable class and the probability of each. Input is read and
answered a thousand texts at a time, so memory does not grow with it; what cannot be read ends it, all before answered.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from imdbcls.console import guard_terminal, say, user_errors
from imdbcls.data.documents import is_unicode
from imdbcls.data.tables import require_column, require_table, rows_of
from imdbcls.errors import UserError
from imdbcls.printable import csv_cell, json_line

if TYPE_CHECKING:
    from imdbcls.api import Predictions

CHUNK = 1000  # texts at a time
DESCRIPTION = (
    "Classify texts by a finished run. Each answer begins with the text's number: its place on the command line, its "
    "line on stdin or in its file, in Parquet its row from 1."
)

Numbered = tuple[int, str]  # a text with its place in the input, which names it in the output


def main() -> None:
    arguments = parse(None)
    guard_terminal()
    try:
        with user_errors():
            predict(arguments, sys.stdin, sys.stdout)
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.predict", description=DESCRIPTION)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("texts", nargs="*", help="texts; without them and --file, each line of stdin is one")
    parser.add_argument("--file", type=Path, help="a .csv, .tsv, .jsonl, .ndjson or .parquet file of texts")
    parser.add_argument("--text-column", metavar="NAME", help="its column (default: that of the run's data, or text)")
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="of the answers (default: jsonl)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="instead of the run's own")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of yours that the run used"
    )
    return parser.parse_intermixed_args(arguments)  # options may stand between the run and its texts


def predict(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Answer all texts; raises UserError for a folder without a finished run and for what is no text, by its place."""
    if arguments.file is not None and arguments.texts:
        raise UserError("Texts stand on the command line or in --file, not both.")
    if arguments.file is not None:
        require_table(arguments.file, "--file")
    from imdbcls.api import load_run

    run = load_run(arguments.run, plugins=arguments.plugins, device=arguments.device)
    write = (write_csv if arguments.format == "csv" else write_jsonl)(stdout, run.label_names)
    for chunk in in_chunks(texts_of(arguments, stdin, run.config["data"].get("text_column", "text"))):
        numbers, texts = zip(*chunk, strict=True)
        write(numbers, run.predict(texts))
        stdout.flush()


def in_chunks(numbered: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    """Up to a thousand texts at a time; those before one that is none are not lost, and the error comes after them."""
    chunk: list[Numbered] = []
    try:
        for each in numbered:
            chunk.append(each)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def texts_of(arguments: argparse.Namespace, stdin: TextIO, column: str) -> Iterator[Numbered]:
    """The texts to answer, from where the command has them; `column` is a file's unless the command names another."""
    if arguments.file is not None:
        return read_file(arguments.file, arguments.text_column or column)
    if arguments.texts:
        return not_empty(enumerate(arguments.texts, start=1), "text")
    return not_empty(lines_of(stdin), "stdin, line")


def lines_of(stdin: TextIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    if stdin.isatty():
        say("Reading texts from the terminal, one a line; Ctrl-D ends.")
    try:
        for number, line in enumerate(stdin, start=1):
            if line.strip():
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"stdin is not in {error.encoding}: byte 0x{error.object[error.start]:02x}.") from error


def not_empty(numbered: Iterable[tuple[int, object]], place: str) -> Iterator[Numbered]:
    for number, text in numbered:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place} {number:,}: there is no text to classify.")
        if not is_unicode(text):
            raise UserError(f"{place} {number:,}: the text holds half of a character, or bytes that are not UTF-8.")
        yield number, text


def read_file(path: Path, column: str) -> Iterator[Numbered]:
    """The texts of a file, read as they are wanted; a text's number is its line, in Parquet its row from 1."""
    found = rows_of(path, wanted=column)
    key = "--text-column"
    if found.columns is not None:
        require_column(column, found.columns, key, str(path))

    def texts() -> Iterator[tuple[int, object]]:
        for number, row in found.rows:
            if column not in row:
                require_column(column, row, key, f"{path}, {found.unit} {number:,},")
            yield number, row[column]

    return not_empty(texts(), f"{path}, {found.unit}")


Write = Callable[[Sequence[int], "Predictions"], None]


def write_jsonl(file: TextIO, label_names: Sequence[str]) -> Write:
    def write(numbers: Sequence[int], predictions: "Predictions") -> None:
        for number, label, row in zip(numbers, predictions.names, predictions.probabilities.tolist(), strict=True):
            answer = {"number": number, "label": label, "probabilities": dict(zip(label_names, row, strict=True))}
            file.write(json_line(answer) + "\n")

    return write


def write_csv(file: TextIO, label_names: Sequence[str]) -> Write:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "label", *(csv_cell(f"probability of {name}") for name in label_names)])

    def write(numbers: Sequence[int], predictions: "Predictions") -> None:
        for number, label, row in zip(numbers, predictions.names, predictions.probabilities.tolist(), strict=True):
            writer.writerow([number, csv_cell(label), *row])

    return write


if __name__ == "__main__":
    main()
