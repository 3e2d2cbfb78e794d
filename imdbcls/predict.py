"""Classify texts by a finished run: `python -m imdbcls.predict runs/heads/lstm-s0-1a2b3c4d "A quiet, patient film."`.

Texts come from the command line, from a file (`--file reviews.csv`), or from stdin, one per line. Each gets a line of
JSON or CSV, in its order: its number, its id where the file has one, its most probable class and the probability of
each class. Input is read and answered a thousand texts at a time, so memory does not grow with it. A row without a text
gets a null label. A row that cannot be read ends the command; the answers before it are written.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import take_over

    take_over()

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from imdbcls.data.answers import FORMATS, Item, Write, output_names, plain
from imdbcls.data.columns import DELIMITERS, QUOTINGS, Request, missing_columns
from imdbcls.data.documents import is_unicode
from imdbcls.data.tables import require_columns, require_table, rows_of
from imdbcls.errors import UserError
from imdbcls.runtime import entry, limits
from imdbcls.runtime.console import say, warn

if TYPE_CHECKING:
    from imdbcls.api import FinishedRun
    from imdbcls.data.token_counts import TokenCounts

CHUNK = 1000  # texts at a time
CHUNK_CHARACTERS = 2**24  # of them together, at most, where it is more than one
FILE_OPTIONS = ("text_column", "id_column", "keep", "delimiter", "quoting")
DESCRIPTION = (
    "Classify texts by a finished run. Each answer begins with the text's number: its place on the command line, its "
    "line on stdin or in its file, in Parquet its row from 1."
)
EPILOG = (
    "Exit code: 0 where every row was answered (a row without a text has a null label, and stderr counts them); 2 for "
    "a mistake in the command or a row that cannot be read, and then the answers before that row are written."
)


@dataclass(frozen=True)
class Input:
    """The rows to answer. `name` is what they are counted by, or None; `copied` are the columns of each row."""

    items: Iterator[Item]
    name: str | None = None
    unit: str = "text"
    copied: tuple[str, ...] = ()


def main() -> None:
    predict(parse(None), sys.stdin, sys.stdout)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.predict", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("texts", nargs="*", help="texts; without them and --file, each line of stdin is one")
    parser.add_argument("--file", type=Path, help="a .csv, .tsv, .jsonl, .ndjson or .parquet file of texts")
    parser.add_argument("--text-column", metavar="NAME", help="its column (default: that of the run's data, or text)")
    parser.add_argument(
        "--id-column",
        metavar="NAME",
        help="column to copy into the answers as id (default: the id column of the run's data, if the file has it)",
    )
    parser.add_argument("--keep", metavar="NAMES", help="columns to copy into the answers, separated by commas")
    parser.add_argument(
        "--delimiter", choices=("auto", *DELIMITERS), help="delimiter of CSV and TSV files (default: auto)"
    )
    parser.add_argument(
        "--quoting",
        choices=QUOTINGS,
        help="whether quotation marks enclose fields of CSV and TSV files (default: auto)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the answers (default: stdout)")
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the answers (default: from the extension of --output, else jsonl)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="instead of the run's own")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of yours that the run used"
    )
    return parser.parse_intermixed_args(arguments)  # options may stand between the run and its texts


def predict(arguments: argparse.Namespace, stdin: TextIO, stdout: TextIO) -> None:
    """Answer all texts; raises UserError for a folder without a finished run and for a row that cannot be read."""
    require_options(arguments)
    limits.require_address_space()
    from imdbcls.api import load_run
    from imdbcls.data.token_counts import losses, sum_of

    run = load_run(arguments.run, plugins=arguments.plugins, device=arguments.device)
    given = input_of(arguments, stdin, run.config["data"])
    num_texts, without_text = 0, list[int]()
    counts: list[TokenCounts] = []
    with output_of(arguments, stdout) as file:
        write = FORMATS[format_of(arguments)](file, run.label_names, given.copied)
        for chunk in in_chunks(given.items):
            counts += answer(chunk, run, write)
            file.flush()
            without_text += [item.number for item in chunk if item.text is None]
            num_texts += len(chunk)
    for loss in losses(sum_of(counts), run.config["max_length"], what="texts") if counts else ():
        warn(loss)
    if given.name is not None:
        texts = "1 row" if num_texts == 1 else f"{num_texts:,} rows"
        say(f"Answered {texts} of {given.name}{counted(without_text, given.unit)}.")


def counted(without_text: Sequence[int], unit: str) -> str:
    if not without_text:
        return ""
    rows = "1 has" if len(without_text) == 1 else f"{len(without_text):,} have"
    return f"; {rows} no text and a null label (first: {unit} {without_text[0]:,})"


def require_options(arguments: argparse.Namespace) -> None:
    """Refuse (UserError) options that do not go together, before anything is loaded."""
    if arguments.file is not None and arguments.texts:
        raise UserError("Texts stand on the command line or in --file, not both.")
    unused = [f"--{name.replace('_', '-')}" for name in FILE_OPTIONS if getattr(arguments, name) is not None]
    if arguments.file is None and unused:
        raise UserError(f"{', '.join(unused)}: only for texts from --file.")
    if arguments.file is not None:
        require_table(arguments.file, "--file")
    if arguments.output is not None:
        require_output(arguments.output, arguments.file)


def require_output(output: Path, file: Path | None) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: give the name of a file in an existing folder.")
    if file is not None and output.exists() and output.samefile(file):
        raise UserError(f"--output={output} is the input file; give another name.")


def format_of(arguments: argparse.Namespace) -> str:
    extension = "" if arguments.output is None else arguments.output.suffix.lower().removeprefix(".")
    return arguments.format or (extension if extension in FORMATS else "jsonl")


@contextlib.contextmanager
def output_of(arguments: argparse.Namespace, stdout: TextIO) -> Iterator[TextIO]:
    """Open the place of the answers. Raises UserError where it cannot be written to."""
    if arguments.output is None:
        yield stdout
        return
    try:
        file = arguments.output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--output={arguments.output} cannot be written ({error.strerror}).") from error
    with file:
        yield file


def answer(chunk: Sequence[Item], run: "FinishedRun", write: Write) -> "list[TokenCounts]":
    """Classify the texts of a chunk, and write an answer for each item. Returns what the tokenizer left of them."""
    texts = [item.text for item in chunk if item.text is not None]
    found: Iterator[tuple[str, list[float]]] = iter(())
    counts = []
    if texts:
        predictions = run.predict(texts)
        counts = [] if predictions.counts is None else [predictions.counts]
        found = zip(predictions.names, predictions.probabilities.tolist(), strict=True)
    for item in chunk:
        label, probabilities = (None, None) if item.text is None else next(found)
        write(item, label, probabilities)
    return counts


def in_chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Up to a thousand items at a time, fewer of long texts. Those before a row that cannot be read are not lost."""
    chunk: list[Item] = []
    num_characters = 0
    try:
        for item in items:
            chunk.append(item)
            num_characters += len(item.text or "")
            if len(chunk) == CHUNK or num_characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, num_characters = [], 0
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def input_of(arguments: argparse.Namespace, stdin: TextIO, data: Mapping[str, Any]) -> Input:
    """The rows to answer, from where the command has them; `data` is the run's section with the default columns."""
    if arguments.file is None and arguments.texts:
        return Input(Item(number, text) for number, text in not_empty(enumerate(arguments.texts, start=1), "text"))
    if arguments.file is None:
        return Input(
            (Item(number, text) for number, text in not_empty(lines_of(stdin), "stdin, line")), "stdin", "line"
        )
    columns = [("text_column", arguments.text_column or name_in(data, "text_column") or "text")]
    columns += [("keep", name.strip()) for name in (arguments.keep or "").split(",") if name.strip()]
    request = Request(tuple(columns), arguments.delimiter or "auto", arguments.quoting or "auto", as_options=True)
    usual = name_in(data, "id_column")
    id_column = arguments.id_column or (
        usual if usual is not None and has_column(arguments.file, usual, request) else None
    )
    if id_column is not None:
        request = replace(request, columns=(columns[0], ("id_column", id_column), *columns[1:]))
    return read_file(arguments.file, request)


def name_in(data: Mapping[str, Any], key: str) -> str | None:
    """A column that the run's data section names; a run folder from elsewhere may hold anything there."""
    name = data.get(key)
    return name if isinstance(name, str) and name.strip() else None


def has_column(path: Path, name: str, request: Request) -> bool:
    """Whether a file has a column once; says so where it has not."""
    try:
        require_columns(path, replace(request, columns=(("id_column", name),)))
    except UserError:
        say(f"{path} does not have the id column of the run's data, {name!r}: the answers have only row numbers.")
        return False
    return True


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
    except OSError as error:
        raise UserError(
            f"stdin cannot be read ({error.strerror}): give texts on the command line or in --file, or open stdin."
        ) from error


def not_empty(numbered: Iterable[tuple[int, str]], place: str) -> Iterator[tuple[int, str]]:
    for number, text in numbered:
        if not text.strip():
            raise UserError(f"{place} {number:,}: there is no text to classify.")
        yield number, whole(text, f"{place} {number:,}")


def whole(text: str, place: str) -> str:
    if not is_unicode(text):
        raise UserError(f"{place}: the text contains an unpaired surrogate, or bytes that are not UTF-8.")
    return text


def read_file(path: Path, request: Request) -> Input:
    """The rows of a file, read one by one; a row's number is its line, in Parquet its row from 1."""
    require_columns(path, request)
    found = rows_of(path, request)
    for note in found.notes:
        say(note)
    (_, text_column), *others = request.columns
    only_text = replace(request, columns=request.columns[:1])
    copied = output_names(others)

    def items() -> Iterator[Item]:
        for number, row in found.rows:
            place = f"{path}, {found.unit} {number:,}"
            missing = missing_columns(only_text, list(row), f"{place},") if found.columns is None else None
            if missing is not None:
                raise missing
            text = row[text_column]
            is_missing = text is None or (isinstance(text, float) and math.isnan(text))
            if not is_missing and not isinstance(text, str):
                raise UserError(f"{place}: {text_column!r} holds a value of type {type(text).__name__}, not a text.")
            kept = {output: plain(row.get(name)) for name, output in copied.items()}
            yield Item(number, None if is_missing or not str(text).strip() else whole(str(text), place), kept)

    return Input(items(), str(path), found.unit, tuple(copied.values()))


if __name__ == "__main__":
    entry.run(main)
