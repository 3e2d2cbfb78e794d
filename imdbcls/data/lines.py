"""Lines of UTF-8 text files, with the place of what cannot be decoded."""

from collections.abc import Iterator
from pathlib import Path

from imdbcls.errors import UserError

LOOKS_LIKE = {"UTF-16": (b"\xff\xfe", b"\xfe\xff"), "gzip": (b"\x1f\x8b",)}  # by a file's first bytes


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
