"""Read text files without columns: each non-blank line is a text, or a pair of texts separated by a tab."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from imdbcls.data.columns import TEXTS, Request
from imdbcls.data.lines import lines_of
from imdbcls.errors import UserError


def line_rows(path: Path, request: Request) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the number of each non-blank line, and a mapping from columns to its texts.

    A text is in the first requested text column, and the second text of a pair in the first pair column. Raise
    UserError for a line that does not fit the encoding. If pairs are requested, also raise UserError for a line without
    exactly two texts.
    """
    settings = [setting for setting in TEXTS if any(each == setting for each, _ in request.columns)]
    names = [next(name for each, name in request.columns if each == setting) for setting in settings]
    for number, line in enumerate(lines_of(path, request), start=1):
        if line.strip():
            text = line.rstrip("\r\n")
            texts = [text] if len(names) == 1 else pair_in(text, f"{path}, line {number:,}")
            yield number, dict(zip(names, texts, strict=True))


def names_in(request: Request) -> list[str]:
    """Return the requested text columns. The lines of a text file are read as if they were in these columns."""
    return [name for setting, name in request.columns if setting in TEXTS]


def pair_in(line: str, place: str) -> tuple[str, str]:
    """Return the two texts in a line; raise UserError if the line does not have exactly two texts."""
    texts = line.split("\t")
    if len(texts) != 2 or not all(text.strip() for text in texts):
        raise UserError(f"{place}: the run classifies pairs of texts, so each line needs two texts separated by a tab.")
    return texts[0], texts[1]
