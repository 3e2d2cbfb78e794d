"""Read the texts to classify: from the command line, from stdin or from a file, one at a time."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from imdbcls.data.answers import Item, output_names, plain
from imdbcls.data.columns import Delimiter, Quoting, Request, missing_columns
from imdbcls.data.tables import require_columns, rows_of
from imdbcls.errors import UserError
from imdbcls.printable import is_unicode

logger = logging.getLogger(__name__)

CHUNK = 1000  # texts at a time
CHUNK_CHARACTERS = 2**24  # of a chunk of more than one text, at most


@dataclass(frozen=True)
class Texts:
    """The rows to answer. `name` is where they come from, if they are counted; `copied` are the columns of each row."""

    items: Iterator[Item]
    name: str | None = None
    unit: str = "text"
    copied: tuple[str, ...] = ()


def from_arguments(texts: Sequence[str]) -> Texts:
    """Return texts of the command line, numbered by their place on it."""
    return Texts(Item(number, text) for number, text in not_empty(enumerate(texts, start=1), "text"))


def from_stdin(stdin: TextIO) -> Texts:
    """Return the lines that are not blank, numbered by their place on stdin."""
    return Texts((Item(number, text) for number, text in not_empty(lines_of(stdin), "stdin, line")), "stdin", "line")


def request_for(
    path: Path,
    data: Mapping[str, Any],
    *,
    text_column: str | None,
    id_column: str | None,
    keep: str | None,
    delimiter: Delimiter | None,
    quoting: Quoting | None,
) -> Request:
    """Return which columns to read of a file, and how; None stands for the default.

    `data` are the arguments of the run's source, with the default columns. `keep` are names separated by commas.
    """
    columns = [("text_column", text_column or name_in(data, "text_column") or "text")]
    columns += [("keep", name.strip()) for name in (keep or "").split(",") if name.strip()]
    request = Request(tuple(columns), delimiter or "auto", quoting or "auto", as_options=True)
    usual = name_in(data, "id_column")
    if id_column is None and usual is not None and has_column(path, usual, request):
        id_column = usual
    if id_column is None:
        return request
    return replace(request, columns=(columns[0], ("id_column", id_column), *columns[1:]))


def name_in(data: Mapping[str, Any], key: str) -> str | None:
    """A column that the run's data section names; a run folder from elsewhere may hold anything there."""
    name = data.get(key)
    return name if isinstance(name, str) and name.strip() else None


def has_column(path: Path, name: str, request: Request) -> bool:
    """Whether a file has a column once; says so where it has not."""
    try:
        require_columns(path, replace(request, columns=(("id_column", name),)))
    except UserError:
        logger.info(
            f"{path} does not have the id column of the run's data, {name!r}: the answers have only row numbers."
        )
        return False
    return True


def from_file(path: Path, request: Request) -> Texts:
    """Return the rows of a file, read one by one; a row's number is its line, in Parquet its row from 1."""
    require_columns(path, request)
    found = rows_of(path, request)
    for note in found.notes:
        logger.info(note)
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

    return Texts(items(), str(path), found.unit, tuple(copied.values()))


def lines_of(stdin: TextIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    if stdin.isatty():
        logger.info("Reading texts from the terminal, one a line; Ctrl-D ends.")
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


def in_chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Yield up to `CHUNK` items at a time, fewer of long texts. A row that cannot be read loses no item before it."""
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
