"""Read the lines of text files in any encoding, and report the position of bytes that do not fit the encoding."""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imdbcls.data.columns import AUTO, Request
from imdbcls.errors import UserError
from imdbcls.printable import shown

# The byte order mark at the start of a file → the name of its encoding, without and with the byte order. UTF-32 comes
# first, because its little-endian mark begins with the mark of UTF-16.
MARKS = {
    codecs.BOM_UTF8: ("utf-8", "utf-8"),
    codecs.BOM_UTF32_LE: ("utf-32", "utf-32-le"),
    codecs.BOM_UTF32_BE: ("utf-32", "utf-32-be"),
    codecs.BOM_UTF16_LE: ("utf-16", "utf-16-le"),
    codecs.BOM_UTF16_BE: ("utf-16", "utf-16-be"),
}
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
SAMPLE_BYTES = 2**20  # minimum length of the blocks in `encoding_sample`
BLOCK = 2**18  # bytes to decode at a time
ADVICE = "Save it as UTF-8"
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel may write `sep=;` as the first line

_ONE_BYTE = re.compile(rb"[\x80-\xff]")
_C1 = re.compile(rb"[\x80-\x9f]")


def lines_of(path: Path, request: Request) -> Iterator[str]:
    """Yield the lines of a text file with their line ends, without the byte order mark.

    Only line feeds end a line. Raise UserError if the file cannot be read, and at the first line with bytes that do not
    fit the encoding.
    """
    advice = f"{ADVICE}, or name its encoding, such as {request.assignment('encoding', request.likely_encoding)}"
    try:
        encoding = encoding_of(path, request)
        if encoding == "utf-8":
            yield from _utf8_lines(path, advice if request.has_settings else ADVICE)
        else:
            yield from _decoded_lines(path, encoding, request)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def encoding_of(path: Path, request: Request) -> str:
    """Return the normalized name of a file's encoding.

    The result is the requested encoding. If the request is `auto`, the byte order mark decides; without a mark, the
    result is UTF-8. With `request.prefers_utf8`, the result is also UTF-8 if the file is evidently UTF-8. Raise
    UserError if the byte order mark contradicts the requested encoding.
    """
    with path.open("rb") as file:
        start = file.read(4)
    marked, with_order = next((names for mark, names in MARKS.items() if start.startswith(mark)), (None, None))
    if request.encoding == AUTO:
        return marked or "utf-8"
    encoding = known_encoding(request)
    if encoding in ("utf-8", "utf-8-sig"):
        encoding = "utf-8"
    elif request.prefers_utf8 and (marked == "utf-8" or is_evidently_utf8(encoding_sample(path), encoding)):
        return "utf-8"
    # In another encoding, the bytes of the mark would be characters such as "ÿþ", with which no text begins.
    if marked is not None and with_order is not None and encoding not in (marked, with_order):
        if not request.has_settings:
            raise UserError(f"{path} is not UTF-8: it has the byte order mark of {marked.upper()}. {ADVICE}.")
        raise UserError(
            f"{path} begins with the byte order mark of {with_order.upper()}, so its encoding is not {encoding}. Leave "
            f"out {request.key('encoding')}, or use {request.assignment('encoding', marked)}."
        )
    return encoding


def known_encoding(request: Request) -> str:
    """Return Python's name of the requested encoding; raise UserError if Python has no text encoding of that name."""
    try:
        "".encode(request.encoding)  # unlike codecs.lookup, this refuses codecs that do not encode text, such as hex
        return codecs.lookup(request.encoding).name
    except (LookupError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"{request.key('encoding')}={shown(request.encoding)} is not an encoding that Python knows. Use, for "
            "example, utf-8, latin-1, cp1252 (Windows, Western Europe) or utf-16."
        ) from error


def doubts(path: Path, request: Request) -> Iterator[str]:
    """Yield a note on a detected encoding, and on each sign that the requested one-byte encoding is wrong.

    An encoding with one byte per character, such as latin-1, decodes almost any file without an error.
    """
    encoding = encoding_of(path, request)
    if request.encoding == AUTO:
        if encoding != "utf-8":
            yield f"{path}: the encoding is {encoding.upper()}, according to the byte order mark."
        return
    if encoding == "utf-8":
        if request.prefers_utf8 and known_encoding(request) not in ("utf-8", "utf-8-sig"):
            yield f"{path}: {request.assignment('encoding', request.encoding)} is ignored, because the file is UTF-8."
        return
    sample = encoding_sample(path)
    if _ONE_BYTE.search(sample) and is_utf8(sample):
        yield (
            f"{path}: the file is also valid UTF-8, so {request.assignment('encoding', request.encoding)} may garble "
            f"its characters. If it does, use {request.assignment('encoding', 'utf-8')}."
        )
    elif encoding == "iso8859-1" and _C1.search(sample):
        yield (
            f"{path}: the file has bytes from 0x80 to 0x9f, which are control characters in latin-1. If it comes from "
            f"Windows, use {request.assignment('encoding', 'cp1252')}."
        )


def encoding_sample(path: Path) -> bytes:
    """Return the first block of a file. If this block is ASCII, append the first later block that is not ASCII.

    Blocks end at line feeds, so no UTF-8 character is split. An ASCII file is read to its end.
    """
    with path.open("rb") as file:
        first = block = file.read(SAMPLE_BYTES) + file.readline()
        while block and block.isascii():
            block = file.read(SAMPLE_BYTES) + file.readline()
    return first if first is block else first + block


def is_evidently_utf8(sample: bytes, encoding: str) -> bool:
    """Return whether a sample of a file is UTF-8 and not `encoding`; False if both are possible, as with ASCII."""
    is_both = sample.isascii() and "a".encode(encoding) == b"a"
    return b"\0" not in sample and is_utf8(sample) and not is_both


def is_utf8(raw: bytes) -> bool:
    """Return whether bytes are valid UTF-8. An incomplete character at the end is invalid."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _utf8_lines(path: Path, advice: str) -> Iterator[str]:
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            yield decode_utf8(raw, str(path), line=number, offset=offset, advice=advice)
            offset += len(raw)


def decode_utf8(raw: bytes, name: str, *, line: int = 1, offset: int = 0, advice: str = ADVICE) -> str:
    """Decode the bytes of a text file, or of a part that begins at `line` and `offset`, without the byte order mark.

    Raise UserError with the line and the byte offset of the first byte that is not UTF-8. The message ends with
    `advice`.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        is_gzip = offset == 0 and raw.startswith(GZIP)
        number = line + raw.count(b"\n", 0, error.start)
        raise UserError(
            f"{name}, line {number:,}: byte 0x{raw[error.start]:02x} at offset {offset + error.start:,} is not UTF-8. "
            f"{'The file looks like gzip. Unpack it first' if is_gzip else advice}."
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _decoded_lines(path: Path, encoding: str, request: Request) -> Iterator[str]:
    """Decode a file in an encoding other than UTF-8, block by block, and yield its lines."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset, pending = 1, 0, ""
    with path.open("rb") as file:
        while True:
            raw = file.read(BLOCK)
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeError as error:
                raise _not_decoded(path, encoding, request, error, offset + len(raw)) from error
            offset += len(raw)
            *lines, pending = (pending + text).split("\n")
            for each in lines:
                yield f"{each.removeprefix(chr(0xFEFF)) if line == 1 else each}\n"
                line += 1
            if not raw:
                break
    if pending:
        yield pending.removeprefix("\ufeff") if line == 1 else pending


def _not_decoded(path: Path, encoding: str, request: Request, error: UnicodeError, end: int) -> UserError:
    """Return the error for bytes that do not fit the encoding. `end` is the offset of the end of the decoded block."""
    key = request.key("encoding")
    if not isinstance(error, UnicodeDecodeError):  # such as UTF-16 without a byte order mark
        likely = request.assignment("encoding", request.likely_encoding)
        return UserError(
            f"{path} is not {encoding} ({error}). Use another {key}, such as {likely}, or save the file as UTF-8 and "
            f"leave out {key}."
        )
    start = end - len(error.object) + error.start
    with path.open("rb") as file:
        before = file.read(start).decode(encoding, errors="replace")
    return UserError(
        f"{path}, line {before.count(chr(10)) + 1:,}: byte 0x{error.object[error.start]:02x} at offset {start:,} is "
        f"not {encoding}. Use another {key}, or save the file as UTF-8 and leave out {key}."
    )


def physical_lines(path: Path, request: Request, *, tolerant: bool = False) -> Iterator[str]:
    """Yield the lines of a file for the csv module, with their line ends, because a quoted field may contain them.

    With `tolerant`, replace bytes that do not fit the encoding instead of raising UserError.
    """
    if not tolerant:
        for line in lines_of(path, request):
            yield from io.StringIO(line, newline="")
        return
    with opened_tolerantly(path, request) as file:
        for line in file:
            yield from io.StringIO(line, newline="")


@contextmanager
def opened_tolerantly(path: Path, request: Request) -> Iterator[io.TextIOWrapper]:
    """Open a file without its byte order mark. Bytes that do not fit the encoding are replaced.

    Raise UserError if the file cannot be decoded at all, such as UTF-16 without a byte order mark.
    """
    encoding = encoding_of(path, request)
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with path.open(encoding=name, errors="replace", newline="\n") as file:
            yield file
    except UnicodeError as error:
        raise _not_decoded(path, encoding, request, error, 0) from error


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
