"""Read the texts to classify: from the command line, from stdin or from a file, one at a time."""

import itertools
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from imdbcls.data.answers import Item, output_names, plain
from imdbcls.data.columns import AUTO, TEXTS, Delimiter, Quoting, Request, Spelling, missing_columns, names_of, spelled
from imdbcls.data.run_format import setting_in, with_format_of_run
from imdbcls.data.table_paths import LINES
from imdbcls.data.tables import last_number, require_columns, rows_of, simple_types
from imdbcls.data.text_lines import pair_in
from imdbcls.errors import UserError
from imdbcls.printable import half_a_character, is_unicode

logger = logging.getLogger(__name__)

# The number of texts to classify at a time. A larger chunk leaves less padding, because its texts are sorted by length.
# The first chunks are smaller, so that the first answers come soon.
CHUNK = 2**14
FIRST_CHUNK = 2**10
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # a byte that Python could not decode (`surrogateescape`)
CHUNK_CHARACTERS = 2**22  # a chunk ends once it has this many characters
# The columns that a command reads from a file by default if the data of the run, such as IMDB, has no columns.
DEFAULT_COLUMNS = {"text_column": ("text",), "label_column": ("label",)}


@dataclass(frozen=True)
class Texts:
    """The texts to classify.

    `name` is their source (a file or stdin); None for the command line. `unit` is the unit of an item's number: "text",
    "line" or "row". `copied` are the names of the copied columns in the answers, and `types` their Arrow types, where
    known. `file` is the file that contains the texts.
    """

    items: Iterator[Item]
    name: str | None = None
    unit: str = "text"
    copied: tuple[str, ...] = ()
    types: Mapping[str, object] = field(default_factory=dict)
    file: Path | None = None

    def last_number(self) -> int | None:
        """Return the approximate number of the last item in a file; None if it is unknown.

        For a text file, this is the number of lines; the last item may be on an earlier line.
        """
        return None if self.file is None else last_number(self.file)


def from_arguments(texts: Sequence[str], *, reads_pairs: bool = False) -> Texts:
    """Return the texts on the command line, numbered from 1. If the run reads pairs, two texts are one document."""
    advice = "The command line must be UTF-8; put the texts into a file and name its encoding (--file, --encoding)"
    found = list(not_empty(enumerate(texts, start=1), "text", "UTF-8", advice))
    if not reads_pairs:
        return Texts(Item(number, text) for number, text in found)
    if len(found) % 2:
        raise UserError(
            f"The run classifies pairs of texts, but the command line has {len(found):,} texts: pass the first and the "
            "second text of each pair."
        )
    pairs = zip(found[::2], found[1::2], strict=True)
    return Texts(Item(number, first, pair=second) for number, ((_, first), (_, second)) in enumerate(pairs, start=1))


def from_stdin(stdin: TextIO, data: Mapping[str, Any], encoding: str | None = None) -> Texts:
    """Return the non-blank lines of stdin with their line numbers. A tab separates the texts of a pair.

    `data` has the arguments of the run's data source. `encoding` is the encoding of stdin; None keeps the encoding that
    Python chose.
    """
    if isinstance(stdin, TextIOWrapper):  # invalid bytes become surrogates, so that the error names their line
        stdin.reconfigure(encoding=None if encoding in (None, AUTO) else encoding, errors="surrogateescape")
    found = (stdin.encoding or "utf-8").upper()
    other = (
        "another encoding with --encoding" if encoding is not None else f"its encoding: --encoding {encoding_in(data)}"
    )
    lines = not_empty(lines_of(stdin), "stdin, line", found, f"Name {other}")
    if not reads_pairs(data):
        return Texts((Item(number, text) for number, text in lines), "stdin", "line")
    pairs = ((number, pair_in(line, f"stdin, line {number:,}")) for number, line in lines)
    return Texts((Item(number, first, pair=second) for number, (first, second) in pairs), "stdin", "line")


def request_for(
    path: Path,
    data: Mapping[str, Any],
    *,
    text_column: Sequence[str] | None,
    pair_column: Sequence[str] | None = None,
    id_column: str | None,
    keep: str | None,
    delimiter: Delimiter | None,
    quoting: Quoting | None,
    encoding: str | None,
    spelling: Spelling = "option",
) -> Request:
    """Return the request for the columns to read from a file.

    `data` has the arguments of the run's data source. By default, the text and id columns have the same names as in the
    run's data, but the id column is left out if the file lacks it. The file is read in the format of the run's data if
    this format fits. Several text columns are joined with the separator of the run. `keep` is a comma-separated list of
    columns to copy into the answers. `spelling` is how messages write a setting. Raise UserError for a `pair_column` if
    the run does not read pairs, and for settings of columns if the file has no columns.
    """
    if pair_column and not reads_pairs(data):
        key = spelled("pair_column", spelling)
        raise UserError(f"{key} can only be used with runs that classify pairs of texts (data.pair_column).")
    has_columns = path.suffix.lower() not in LINES
    options = {"text_column": text_column, "pair_column": pair_column, "id_column": id_column, "keep": keep}
    given = [
        spelled(name, spelling)
        for name, value in {**options, "delimiter": delimiter, "quoting": quoting}.items()
        if value
    ]
    if given and not has_columns:
        raise UserError(f"{path} has no columns: each line is one text. Leave out {', '.join(given)}.")
    texts = [("text_column", name) for name in columns_for(data, "text_column", text_column)]
    texts += [("pair_column", name) for name in columns_for(data, "pair_column", pair_column)]
    columns = list(texts)
    columns += [("keep", name.strip()) for name in (keep or "").split(",") if name.strip()]
    request = Request(
        tuple(columns),
        delimiter or "auto",
        quoting or "auto",
        spelling=spelling,
        encoding=encoding or "auto",
        separator=separator_in(data),
        likely_encoding=encoding_in(data),
    )
    request = with_format_of_run(request, path, data)
    usual = next(iter(columns_in(data, "id_column")), None)
    if id_column is None and has_columns and usual is not None and has_column(path, usual, request):
        id_column = usual
    if id_column is None:
        return request
    return replace(request, columns=(*columns[: len(texts)], ("id_column", id_column), *columns[len(texts) :]))


def reads_pairs(data: Mapping[str, Any]) -> bool:
    """Return whether a run reads pairs of texts, from the arguments of its data source."""
    return bool(columns_in(data, "pair_column"))


def columns_for(data: Mapping[str, Any], key: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns that a command reads from a file for `key`, such as `text_column`.

    These are the columns that the user gave, else the columns of the run's data, else the default columns. Without a
    default, as for `pair_column`, the result can be ().
    """
    return names_of(given) or columns_in(data, key) or DEFAULT_COLUMNS.get(key, ())


def columns_in(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the columns at `key` in the arguments of the run's data source; () if they are not column names.

    The value may be anything if the run folder comes from an untrusted source.
    """
    value = data.get(key)
    names: list[Any] = value if isinstance(value, list) else [value]
    return tuple(names) if all(isinstance(name, str) and name.strip() for name in names) else ()


def separator_in(data: Mapping[str, Any]) -> str:
    """Return the string between the cells of several text columns, from the arguments of the run's data source."""
    separator = data.get("text_separator")
    return separator if isinstance(separator, str) else " "


def encoding_in(data: Mapping[str, Any]) -> str:
    """Return the encoding to suggest for a file that is not UTF-8: the encoding set for the run's data, else cp1252."""
    return str(setting_in(data, "encoding") or "cp1252")


def has_column(path: Path, name: str, request: Request) -> bool:
    """Return whether a file has exactly one column `name`; log a message if not."""
    try:
        require_columns(path, replace(request, columns=(("id_column", name),)))
    except UserError:
        logger.info(
            f"{path} does not have exactly one column named {name!r} (the id column of the run's data). The answers "
            "contain line numbers (for Parquet: row numbers) instead of ids."
        )
        return False
    return True


def from_file(path: Path, request: Request) -> Texts:
    """Return the rows of a file, which are read one by one, with their line numbers (for Parquet: row numbers)."""
    require_columns(path, request)
    found = rows_of(path, request)
    for note in found.notes:
        logger.info(note)
    texts = tuple(pair for pair in request.columns if pair[0] in TEXTS)
    only_text = replace(request, columns=texts)
    outputs = only_text.outputs
    copied = output_names(pair for pair in request.columns if pair not in texts)

    def items() -> Iterator[Item]:
        for number, row in found.rows:
            where = f"{path}, {found.unit}"
            place = f"{where} {number:,}"
            if found.columns is None and any(not any(map(row.__contains__, names)) for names in outputs.values()):
                missing = missing_columns(only_text, list(row), f"{place},")
                assert missing is not None
                raise missing
            cells = [text_in(only_text.cell(row, name, where, number), name, place) for name in outputs]
            text, pair = (None, None) if None in cells else (cells[0], cells[1] if len(cells) > 1 else None)
            yield Item(number, text, {output: plain(row.get(name)) for name, output in copied.items()}, pair)

    types = {copied[name]: kind for name, kind in simple_types(path).items() if name in copied}
    return Texts(items(), str(path), found.unit, tuple(copied.values()), types, path)


def text_in(cell: object, name: str, place: str) -> str | None:
    """Return the text in a cell, or None if it is missing or blank; raise UserError if it is not a valid string."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if not isinstance(cell, str):
        raise UserError(f"{place}: {name!r} must be a string, not a value of type {type(cell).__name__}.")
    return valid_unicode(cell, place) if cell.strip() else None


def lines_of(stdin: TextIO) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines of stdin with their numbers."""
    if stdin.isatty():
        logger.info("Reading texts from the terminal, one per line. Press Ctrl-D to finish.")
    try:
        for number, line in enumerate(stdin, start=1):
            if line.strip():
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"stdin is not {error.encoding}: byte 0x{error.object[error.start]:02x}. Name its encoding with --encoding."
        ) from error
    except UnicodeError as error:  # such as UTF-16 without a byte order mark
        raise UserError(f"stdin is not {stdin.encoding} ({error}). Name another encoding with --encoding.") from error
    except OSError as error:
        raise UserError(
            f"stdin cannot be read ({error.strerror}). Pass texts on the command line or with --file."
        ) from error


def not_empty(numbered: Iterable[tuple[int, str]], place: str, encoding: str, advice: str) -> Iterator[tuple[int, str]]:
    """Yield pairs (number, text); raise UserError for an empty text, with its position (such as `{place} 3`).

    Also raise UserError for a surrogate in the text, which is a byte that does not fit the encoding. This message ends
    with `advice`.
    """
    for number, text in numbered:
        if not text.strip():
            raise UserError(f"{place} {number:,} is empty, so it cannot be classified.")
        if (byte := _ESCAPED_BYTE.search(text)) is not None:
            raise UserError(f"{place} {number:,}: byte 0x{ord(byte[0]) - 0xDC00:02x} is not {encoding}. {advice}.")
        yield number, valid_unicode(text, f"{place} {number:,}")


def valid_unicode(text: str, place: str) -> str:
    """Return `text`; raise UserError if UTF-8 cannot encode it. `place` is its position for the message."""
    if not is_unicode(text):
        raise UserError(f"{place}: the text contains {half_a_character(text)}.")
    return text


def in_shard(items: Iterator[Item], shard: tuple[int, int]) -> Iterator[Item]:
    """Yield the items of shard i of n, counted from 1: the i-th item, and every n-th item after it."""
    index, count = shard
    return itertools.islice(items, index - 1, None, count)


def in_chunks(items: Iterator[Item], num_done: int = 0) -> Iterator[list[Item]]:
    """Yield lists of up to `CHUNK` items, fewer if the texts are long.

    `num_done` is the number of items that an interrupted command has answered. The first chunks are smaller: the limit
    of a chunk is the number of items before it, with a minimum of `FIRST_CHUNK`. If the next item raises UserError,
    first yield the items before it, so that they get answers. A command that continues after these items has different
    chunks from a command without the error.
    """
    chunk: list[Item] = []
    num_characters = 0
    try:
        for item in items:
            chunk.append(item)
            num_characters += len(item.text or "") + len(item.pair or "")
            if len(chunk) >= min(CHUNK, max(FIRST_CHUNK, num_done)) or num_characters >= CHUNK_CHARACTERS:
                yield chunk
                num_done += len(chunk)
                chunk, num_characters = [], 0
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
