"""Read the rows of CSV and TSV files, and report an unclosed quotation mark instead of merging rows."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from imdbcls.data.columns import Request, positions_of
from imdbcls.data.layout import NO_DELIMITER, Layout
from imdbcls.data.lines import after_separator_line, physical_lines
from imdbcls.errors import UserError


def delimited_rows(
    path: Path, layout: Layout, request: Request
) -> tuple[list[str], Iterator[tuple[int, Mapping[str, str]]]]:
    """Return the column names, and an iterator over pairs (number of the row's first line, its requested columns).

    Raise UserError for an empty file and for a requested column that occurs twice. The iterator raises UserError when
    it reaches a broken row.
    """
    skipped, lines = after_separator_line(physical_lines(path, request))
    numbered = _records(path, layout, request, skipped, lines)
    first, header = next(numbered, (1, None))
    if header is None:
        raise UserError(f"{path} is empty; the first line must name the columns.")
    names = [name.strip() for name in header]
    positions = positions_of(request, names, f"{path}, line {first}")

    def rows() -> Iterator[tuple[int, Mapping[str, str]]]:
        for line, fields in numbered:
            if len(fields) != len(names):
                advice = "a field that contains it must be quoted"
                if not layout.quoted:
                    advice = "quotation marks are read as ordinary characters, so no field can contain it"
                raise UserError(
                    f"{path}, line {line:,}: expected {len(names)} fields as in the header, found {len(fields)}. "
                    f"The delimiter is {layout.delimiter!r}; {advice}."
                )
            if layout.suspect is not None and layout.suspect[0] == line:
                raise UserError(_merged_rows(path, layout.suspect, request))
            yield line, {name: fields[index] for name, index in positions.items()}

    return names, rows()


def _merged_rows(path: Path, span: tuple[int, int], request: Request) -> str:
    """Return the error for a quoted field that seems to contain rows; `span` is the field's first and last line."""
    first, last = span
    return (
        f"{path}, line {first:,}: a quotation mark opens a field that ends on line {last:,}, but these lines look like "
        f"separate rows. Close or double the quotation mark, or use {request.assignment('quoting', 'none')} to read "
        "quotation marks as ordinary characters. If the field is correct, use "
        f"{request.assignment('quoting', 'standard')}."
    )


def _records(
    path: Path, layout: Layout, request: Request, skipped: int, lines: Iterator[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield each non-blank row with the number of its first line."""
    reader = layout.reader(lines)
    line = skipped + 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        unclosed = "end of data" in str(error)
        hint = "is there an unclosed quotation mark?" if unclosed else 'write a quotation mark inside a field as ""'
        problem = str(error)
        if layout.delimiter in problem and layout.delimiter == NO_DELIMITER:
            problem = "text follows the closing quotation mark"
        advice = f" {request.assignment('quoting', 'none')} reads quotation marks as ordinary characters."
        raise UserError(
            f"{path}, line {line:,}: this row cannot be read as CSV: {problem} ({hint})."
            f"{advice if request.has_settings else ''}"
        ) from error
