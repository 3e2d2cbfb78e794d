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
    """A document to classify: its number, its text (None if empty), and the values to copy into its answer."""

    number: int
    text: str | None
    copied: Mapping[str, object] = field(default_factory=dict)


Write = Callable[[Item, str | None, list[float] | None], None]  # an item, its label, its probabilities


def output_names(columns: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map each copied column of the input file to its name in the answers.

    `columns` are pairs (setting, column name). The column with the setting `id_column` becomes `id`. Any other column
    keeps its name, unless the name is already used in the answers or begins with `probability_`: such a name gets the
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
    """Convert a cell to a JSON value: None for NaN and infinity, a string for dates and other unsupported types."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def write_jsonl(file: TextIO, label_names: Sequence[str], copied: Sequence[str]) -> Write:
    """Return a function that writes one answer as a line of JSON."""
    ascii_only = not takes_unicode(file)  # if true, write non-ASCII characters as JSON escapes

    def write(item: Item, label: str | None, probabilities: list[float] | None) -> None:
        by_class = None if probabilities is None else dict(zip(label_names, probabilities, strict=True))
        answer = {"number": item.number, **item.copied, "label": label, "probabilities": by_class}
        file.write(json_line(answer, ascii_only=ascii_only) + "\n")

    return write


def write_csv(file: TextIO, label_names: Sequence[str], copied: Sequence[str]) -> Write:
    """Write the header, and return a function that writes one answer as a row."""
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
    """Return the chosen format. By default, use the format of the output file's extension, or else JSON Lines."""
    extension = "" if output is None else output.suffix.lower().removeprefix(".")
    return chosen or (extension if extension in FORMATS else "jsonl")


def require_output(output: Path, file: Path | None) -> None:
    """Raise UserError if `output` is a folder, is in a missing folder, or is the input file."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output} must be a file in an existing folder.")
    if file is not None and output.exists() and output.samefile(file):
        raise UserError(f"--output={output} is the input file; choose another name.")


@contextlib.contextmanager
def opened(output: Path | None, stdout: TextIO) -> Iterator[TextIO]:
    """Yield the open output file, or stdout if `output` is None; raise UserError if the file cannot be opened."""
    if output is None:
        yield stdout
        return
    try:
        file = output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}).") from error
    with file:
        yield file
