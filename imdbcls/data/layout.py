"""Detect the layout of a CSV or TSV file: its delimiter, and whether quotation marks enclose fields."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imdbcls.data.columns import DELIMITERS, Request
from imdbcls.data.lines import SEPARATOR_LINE, after_separator_line, opened_tolerantly, physical_lines
from imdbcls.errors import UserError

SAMPLE = 1000  # rows used to learn the kind of each column
FIRST_BYTES = 2**20  # bytes of a file used to detect its delimiter
# A suspect is a row with a quoted field of several lines, each of which may be a row of its own. Its inner lines are
# all lines of the row except the first. A suspect with fewer than `LONG_SPAN` inner lines is reported only if all of
# them look like rows.
MAX_SUSPECTS = 20  # suspects to remember
UNKNOWN_SPAN = 3  # minimum number of inner lines if none of them has a cell that is typical of its column
LONG_SPAN = 10  # minimum number of inner lines for which `ROWLIKE_SHARE` is enough
ROWLIKE_SHARE = 0.8  # share of inner lines that must look like rows

# The delimiter of a file with one column: a control character (the unit separator), which texts do not contain.
NO_DELIMITER = "\x1f"

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")

# The csv module refuses fields over 128 KiB by default; documents may be longer.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class Layout:
    """The layout of a CSV or TSV file."""

    delimiter: str
    quoted: bool = True  # true: quotation marks enclose fields; false: they are ordinary characters
    skip_space: bool = False  # ignore spaces after the delimiter
    suspect: tuple[int, int] | None = None  # first and last line of a row whose quoted field seems to contain rows

    def reader(self, lines: Iterator[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.skip_space,
            strict=True,
        )

    def notes(self, path: Path, request: Request) -> Iterator[str]:
        """Yield a message for each unusual property that can change the content of a cell."""
        usual = "\t" if path.suffix.lower() == ".tsv" else ","
        if self.delimiter == NO_DELIMITER:
            yield f"{path}: the file has one column, so each row is one text, with its commas, semicolons and tabs."
        elif self.delimiter != usual:
            name = next(name for name, character in DELIMITERS.items() if character == self.delimiter)
            yield f"{path}: fields are separated by {self.delimiter!r} ({request.assignment('delimiter', name)})."
        if not self.quoted:
            yield (
                f"{path}: quotation marks are read as ordinary characters, because they do not enclose fields in this "
                f"file ({request.assignment('quoting', 'none')})."
            )
        if self.skip_space:
            yield f"{path}: spaces after the delimiter are ignored."


def layout_of(path: Path, request: Request, *, only_header: bool = False) -> Layout:
    """Detect the parts of a file's layout that `request` does not specify.

    The delimiter is found in this order:

    1. the delimiter that Excel's `sep=;` line declares;
    2. the only delimiter that splits the header into the requested columns or, failing that, into several columns (a
       pipe is not detected);
    3. the usual delimiter for the file's extension.

    If no allowed delimiter splits the header, the result is `NO_DELIMITER`. Quotation marks in a tab-separated file are
    read as ordinary characters if they evidently do not enclose fields. With `only_header`, the function reads only the
    first lines and does not detect quoting. A broken row raises no error here, but in `delimited_rows`.
    """
    try:
        layout = Layout(_find_delimiter(path, request), quoted=request.quoting != "none")
        return layout if only_header else _find_quoting(path, layout, request)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _find_quoting(path: Path, layout: Layout, request: Request) -> Layout:
    if not layout.quoted or not _has_quotation_marks(path):
        return layout
    found = survey(path, layout, request)
    spaced = survey(path, replace(layout, skip_space=True), request) if found.spaced else None
    if spaced is not None and (spaced.reads_further_than(found) or found.is_spaced_throughout()):
        layout, found = replace(layout, skip_space=True), spaced
    if request.quoting == "standard":
        return layout
    has_tabs = layout.delimiter == "\t" or (layout.delimiter == NO_DELIMITER and path.suffix.lower() == ".tsv")
    if has_tabs and found.is_unquoted():
        return replace(layout, quoted=False, skip_space=False)
    return replace(layout, suspect=found.first_suspect())


def _find_delimiter(path: Path, request: Request) -> str:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with opened_tolerantly(path, request) as file:
        first_lines = file.read(FIRST_BYTES)
    separator = SEPARATOR_LINE.match(first_lines)
    is_chosen = request.delimiter != "auto"
    if separator is not None:
        if separator[1] in DELIMITERS.values() and not is_chosen:
            return separator[1]
        first_lines = first_lines[separator.end() :]
    headers = {}
    candidates = [DELIMITERS[request.delimiter]] if is_chosen else set(DELIMITERS.values()) - {"|"}
    for delimiter in sorted(candidates, key=lambda each: each != usual):
        try:
            header = next(row for row in csv.reader(io.StringIO(first_lines, newline=""), delimiter=delimiter) if row)
        except (csv.Error, StopIteration):
            continue
        headers[delimiter] = [name.strip() for name in header]
    if headers and all(len(names) == 1 for names in headers.values()):
        return NO_DELIMITER
    if is_chosen:
        return DELIMITERS[request.delimiter]
    fitting = [each for each, names in headers.items() if {name.strip() for name in request.names} <= set(names)]
    splitting = [each for each, names in headers.items() if len(names) > 1]
    for possible in (fitting, splitting):
        if usual in possible:
            return usual
        if len(possible) == 1:
            return possible[0]
    return usual


def _has_quotation_marks(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in chunk for chunk in iter(lambda: file.read(2**20), b""))


@dataclass
class Survey:
    """Statistics from reading a file with one layout, and from reading each of its lines as a row."""

    delimiter: str
    skips_space: bool = False
    num_columns: int = 0
    failed_at: float = float("inf")  # line of the first row that this layout cannot read
    raw_failed_at: float = float("inf")  # first line that is not a row if quotation marks are ordinary characters
    num_rows: int = 0  # rows that consist of one line
    header_quoted: bool = False  # some column name is quoted
    needs_quotes: bool = False  # some row can be read only if quotation marks enclose fields
    quoted: list[int] = field(default_factory=list)  # for each column, the number of rows in which it is quoted
    spaced: bool = False  # some field begins with a space and a quotation mark
    spaced_quotes: list[int] = field(default_factory=list)  # for each column, the number of such fields
    spaces: list[int] = field(default_factory=list)  # for each column, the number of fields that begin with a space
    num_long: int = 0  # rows that consist of several lines
    sample: list[list[str]] = field(default_factory=list)
    suspects: list[tuple[int, list[str]]] = field(default_factory=list)  # number of the first line, and all lines

    def start(self, header: Sequence[str], physical: Sequence[str]) -> None:
        self.num_columns = len(header)
        self.header_quoted = any(cell.startswith('"') for cell in self._split(physical[0]))
        self.quoted, self.spaced_quotes, self.spaces = ([0] * len(header) for _ in range(3))

    def add(self, line: int, fields: Sequence[str], physical: Sequence[str]) -> None:
        """Count one row. `line` is the number of its first line, and `physical` are its lines in the file."""
        for column, cell in enumerate(fields):
            if cell.startswith(" "):
                self.spaces[column] += 1
                self.spaced_quotes[column] += self.is_spaced_quote(cell, physical)
        if len(physical) > 1:
            self.num_long += 1
            likely = sum(text.count(self.delimiter) + 1 == self.num_columns for text in physical[1:])
            self.needs_quotes |= likely < len(physical) - 1
            if likely >= ROWLIKE_SHARE * (len(physical) - 1) and len(self.suspects) < MAX_SUSPECTS:
                self.suspects.append((line, list(physical)))
            return
        self.num_rows += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(list(fields))
        if '"' not in physical[0]:
            return
        raw = self._split(physical[0])
        if len(raw) != self.num_columns:
            self.needs_quotes = True
            return
        for column, (written, cell) in enumerate(zip(raw, fields, strict=True)):
            if written.startswith('"'):
                self.quoted[column] += 1
                self.needs_quotes |= '"' in cell

    def _split(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(self.delimiter)

    def reads_further_than(self, other: "Survey") -> bool:
        return self.failed_at > other.failed_at

    def is_spaced_quote(self, cell: str, physical: Sequence[str]) -> bool:
        """Return whether a field begins with a space and a quotation mark in the file.

        A quoted field (`" ""Good"", she said"`) does not, even if its content begins with these characters.
        """
        if not (cell.startswith(" ") and cell.lstrip(" ").startswith('"')):
            return False
        return any(line.startswith(cell) or f"{self.delimiter}{cell}" in line for line in physical)

    def is_spaced_throughout(self) -> bool:
        """Return whether all fields of some column begin with a space, and some with a space and a quotation mark."""
        return any(
            quotes and spaces == self.num_rows + self.num_long
            for quotes, spaces in zip(self.spaced_quotes, self.spaces, strict=True)
        )

    def is_unquoted(self) -> bool:
        """Return whether the quotation marks of a tab-separated file are ordinary characters."""
        if self.num_columns == 1:  # any line is a valid row of one column, so only a reading error tells the difference
            return self.failed_at < float("inf")
        if self.failed_at < float("inf"):
            return self.raw_failed_at > self.failed_at
        if self.raw_failed_at < float("inf"):
            return False
        # The file can be read either way. If some rows span several lines, and each of these lines has the right number
        # of tabs, then each line is a row.
        if self.num_long:
            return not self.needs_quotes
        if self.header_quoted or self.needs_quotes or not any(self.quoted):
            return False
        # A CSV writer quotes either only the fields that need it, or every field of a column.
        return not any(count == self.num_rows for count in self.quoted)

    def first_suspect(self) -> tuple[int, int] | None:
        """Return the first and last line of the first row whose quoted field seems to contain rows."""
        kinds = [_Kind.of([row[column].strip() for row in self.sample]) for column in range(self.num_columns)]
        for line, physical in self.suspects if self.num_columns > 1 else ():
            cells = self._split(physical[0])
            opened = next((column for column, cell in enumerate(cells) if cell.lstrip().startswith('"')), 0)
            # The field with the quotation mark may contain delimiters. Count the fields before it from the left, and
            # the fields after it from the right.
            after = self.num_columns - opened - 1
            first = [*cells[:opened], "", *(cells[-after:] if after else [])]
            others = {column: kind for column, kind in enumerate(kinds) if column != opened}
            if len(cells) < self.num_columns or self._fit(first, others) is False:
                continue
            inner = [self._fit(self._split(text), others) for text in physical[1:]]
            num_rowlike = sum(fits is not False for fits in inner)
            if True not in inner and len(inner) < UNKNOWN_SPAN:
                continue
            if num_rowlike == len(inner) or (len(inner) >= LONG_SPAN and num_rowlike >= ROWLIKE_SHARE * len(inner)):
                return line, line + len(physical) - 1
        return None

    def _fit(self, cells: Sequence[str], kinds: Mapping[int, "_Kind"]) -> bool | None:
        """Return whether the cells of a line fit the columns in `kinds`; None if the columns give no evidence."""
        if len(cells) != self.num_columns:
            return False
        # In a column without leading spaces, a cell with a leading space is part of a sentence ("a, second").
        if not self.skips_space and any(
            cells[column].startswith(" ") > self.spaces[column] for column in range(1, len(cells))
        ):
            return False
        answers = [kind.fits(cells[column].strip(' "')) for column, kind in kinds.items()]
        return False if False in answers else True if True in answers else None


@dataclass(frozen=True)
class _Kind:
    """The kind of values in a column: numbers, a few repeated values, or anything."""

    is_number: bool
    repeats: bool
    values: frozenset[str]

    @classmethod
    def of(cls, cells: Sequence[str]) -> "_Kind":
        values = frozenset(cells)
        return cls(bool(cells) and all(map(_NUMBER.fullmatch, cells)), len(values) <= len(cells) / 2, values)

    def fits(self, cell: str) -> bool | None:
        """Return whether a cell fits this column; None if the column gives no evidence."""
        if self.is_number:
            return bool(_NUMBER.fullmatch(cell))
        if cell in self.values:
            return True
        return False if self.repeats else None


class _LineRecorder:
    """An iterator that records the lines a csv reader consumes.

    `take` returns the lines of the row that was just read, and the number of its first line.
    """

    def __init__(self, lines: Iterator[str], skipped: int) -> None:
        self._lines, self._pending = lines, list[str]()
        self._next_line = skipped + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._pending.append(line)
        return line

    def take(self) -> tuple[int, list[str]]:
        line, taken, self._pending = self._next_line, self._pending, []
        self._next_line += len(taken)
        return line, taken


def survey(path: Path, layout: Layout, request: Request) -> Survey:
    """Read a file with `layout` up to the first error, and collect the statistics that distinguish layouts."""
    found = Survey(layout.delimiter, layout.skip_space)
    skipped, lines = after_separator_line(physical_lines(path, request, tolerant=True))
    recorder = _LineRecorder(lines, skipped)
    try:
        for fields in layout.reader(recorder):
            line, physical = recorder.take()
            if not fields:
                continue
            if not found.num_columns:
                found.start(fields, physical)
                continue
            found.spaced |= any(found.is_spaced_quote(cell, physical) for cell in fields)
            if len(fields) != found.num_columns:
                found.failed_at = line
                break
            found.add(line, fields, physical)
    except csv.Error:
        found.failed_at = recorder.take()[0]
    skipped, lines = after_separator_line(physical_lines(path, request, tolerant=True))
    for line, text in enumerate(lines, start=skipped + 1):
        if not text.strip("\r\n"):
            continue
        found.num_columns = found.num_columns or text.count(layout.delimiter) + 1
        if text.count(layout.delimiter) + 1 != found.num_columns:
            found.raw_failed_at = line
            break
    return found
