"""Write the answers of `imdbcls.predict` as JSON Lines or CSV."""

import contextlib
import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from imdbcls.errors import UserError
from imdbcls.printable import copied_cell, csv_cell, json_line
from imdbcls.runtime.entry import takes_unicode

OWN_NAMES = ("number", "id", "label", "probabilities")
PROBABILITY = "probability_"  # prefix of the probability columns in CSV


@dataclass(frozen=True)
class Item:
    """A row of the input: its number, its text (None if empty), and the values to copy into its answer."""

    number: int
    text: str | None
    copied: Mapping[str, object] = field(default_factory=dict)


Write = Callable[[Item, str | None, list[float] | None], None]  # an item, its label, its probabilities


def output_names(columns: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the name of each copied column in the answers, by its name in the file.

    `columns` are pairs of a setting and a column. A column that has the name of one of the answers' own fields gets the
    prefix `input_`.
    """
    names: dict[str, str] = {}
    for setting, column in columns:
        output = column
        while output in (*OWN_NAMES, *names.values()) or output.startswith(PROBABILITY):
            output = f"input_{output}"
        names.setdefault(column, "id" if setting == "id_column" else output)
    return names


def plain(value: object) -> object:
    """Convert a cell to a value that JSON can hold: null for NaN and infinity, a string for dates and other types."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def write_jsonl(file: TextIO, label_names: Sequence[str], copied: Sequence[str]) -> Write:
    is_ascii = not takes_unicode(file)  # if so, JSON escapes all other characters

    def write(item: Item, label: str | None, probabilities: list[float] | None) -> None:
        by_class = None if probabilities is None else dict(zip(label_names, probabilities, strict=True))
        answer = {"number": item.number, **item.copied, "label": label, "probabilities": by_class}
        file.write(json_line(answer, ascii_only=is_ascii) + "\n")

    return write


def write_csv(file: TextIO, label_names: Sequence[str], copied: Sequence[str]) -> Write:
    writer = csv.writer(file, lineterminator="\n")
    names = [*copied, "label", *(f"{PROBABILITY}{name}" for name in label_names)]
    writer.writerow(["number", *map(csv_cell, names)])

    def write(item: Item, label: str | None, probabilities: list[float] | None) -> None:
        by_class = [None] * len(label_names) if probabilities is None else probabilities
        cells = [
            copied_cell(str(cell)) if isinstance(cell, str | list | dict) else cell for cell in item.copied.values()
        ]
        writer.writerow([item.number, *cells, None if label is None else csv_cell(label), *by_class])

    return write


FORMATS = {"jsonl": write_jsonl, "csv": write_csv}


def format_of(chosen: str | None, output: Path | None) -> str:
    """Return the chosen format, else the format of the output file's extension, else JSON Lines."""
    extension = "" if output is None else output.suffix.lower().removeprefix(".")
    return chosen or (extension if extension in FORMATS else "jsonl")


def require_output(output: Path, file: Path | None) -> None:
    """Raise UserError for an output path that cannot be a file, or that is the input file."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output} is not a file in an existing folder; choose another path.")
    if file is not None and output.exists() and output.samefile(file):
        raise UserError(f"--output={output} is the input file; choose another name.")


@contextlib.contextmanager
def opened(output: Path | None, stdout: TextIO) -> Iterator[TextIO]:
    """Open the file for the answers, or yield stdout if `output` is None; raise UserError if it is not writable."""
    if output is None:
        yield stdout
        return
    try:
        file = output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}).") from error
    with file:
        yield file
