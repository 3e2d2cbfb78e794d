"""Lines of UTF-8 text files, with the place of what cannot be decoded."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from imdbcls.errors import UserError

LOOKS_LIKE = {"UTF-16": (b"\xff\xfe", b"\xfe\xff"), "gzip": (b"\x1f\x8b",)}  # by a file's first bytes
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line, `sep=;`


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends, without the byte order mark.

    Raises UserError for a file that cannot be read, and for bytes that are not UTF-8 when their line is reached.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield decode_utf8(raw, str(path), line=number, offset=offset)
                offset += len(raw)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def decode_utf8(raw: bytes, name: str, *, line: int = 1, offset: int = 0) -> str:
    """Decode a text file's bytes, without its byte order mark, or a part of them that begins at `line` and `offset`.

    Raises UserError with the line and the byte offset where it is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        kind = next((kind for kind, starts in LOOKS_LIKE.items() if offset == 0 and raw.startswith(starts)), "")
        hint = f" (it looks like {kind})" if kind else ""
        number = line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {number:,}: byte 0x{raw[error.start]:02x} at offset "
            f"{offset + error.start:,} is not UTF-8{hint}; "
            f"{'unpack it first' if kind == 'gzip' else 'save the file as UTF-8'}."
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def physical_lines(path: Path, *, tolerant: bool = False) -> Iterator[str]:
    """Yield lines for the csv module, which is left the line ends: a quoted text may span lines."""
    if not tolerant:
        for line in lines_of(path):
            yield from io.StringIO(line, newline="")
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for line in file:
            yield from io.StringIO(line, newline="")


def after_separator_line(lines: Iterator[str]) -> tuple[int, Iterator[str]]:
    """Drop Excel's `sep=;`; returns the number of lines dropped, and the rest."""
    first = next(lines, None)
    if first is None:
        return 0, iter(())
    if SEPARATOR_LINE.fullmatch(first):
        return 1, lines
    return 0, _chained(first, lines)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
