"""Read lines of UTF-8 text files, and report the position of bytes that are not UTF-8."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from imdbcls.errors import UserError

LOOKS_LIKE = {"UTF-16": (b"\xff\xfe", b"\xfe\xff"), "gzip": (b"\x1f\x8b",)}  # by a file's first bytes
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel may write `sep=;` as the first line


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line ends, without the byte order mark.

    Raise UserError if the file cannot be read, or at the first line with bytes that are not UTF-8.
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
    """Decode the bytes of a text file, or of a part that begins at `line` and `offset`, without the byte order mark.

    Raise UserError with the line and the byte offset of the first byte that is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        kind = next((kind for kind, starts in LOOKS_LIKE.items() if offset == 0 and raw.startswith(starts)), "")
        number = line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {number:,}: byte 0x{raw[error.start]:02x} at offset {offset + error.start:,} is not UTF-8. "
            f"{f'The file looks like {kind}. ' if kind else ''}"
            f"{'Unpack it first' if kind == 'gzip' else 'Save it as UTF-8'}."
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def physical_lines(path: Path, *, tolerant: bool = False) -> Iterator[str]:
    """Yield the lines of a file for the csv module, with their line ends, because a quoted field may contain them.

    With `tolerant`, replace bytes that are not UTF-8 instead of raising UserError.
    """
    if not tolerant:
        for line in lines_of(path):
            yield from io.StringIO(line, newline="")
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for line in file:
            yield from io.StringIO(line, newline="")


def after_separator_line(lines: Iterator[str]) -> tuple[int, Iterator[str]]:
    """Drop Excel's `sep=;` line, if there is one; return the number of dropped lines and the remaining lines."""
    first = next(lines, None)
    if first is None:
        return 0, iter(())
    if SEPARATOR_LINE.fullmatch(first):
        return 1, lines
    return 0, _chained(first, lines)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
