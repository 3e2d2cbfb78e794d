"""Write the answers of `imdbcls.predict` as JSON Lines, CSV or text. `arrow_answers` writes Parquet."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from imdbcls.errors import UserError
from imdbcls.printable import copied_cell, csv_cell, in_percent, json_line, printable_line, shown
from imdbcls.runtime.entry import takes_unicode

OWN_NAMES = ("number", "id", "label", "probabilities")
PROBABILITY = "probability_"  # prefix of the probability columns in CSV


@dataclass(frozen=True)
class Item:
    """A document to classify: its number, its text (None if empty), and the values to copy into its answer.

    `pair` is the second text of a pair; None for a single text, and if one of the texts is empty.
    """

    number: int
    text: str | None
    copied: Mapping[str, object] = field(default_factory=dict)
    pair: str | None = None

    @property
    def document(self) -> "str | tuple[str, str] | None":
        """The text or the pair of texts; None if a text is empty."""
        return self.text if self.text is None or self.pair is None else (self.text, self.pair)


class Answer(NamedTuple):
    """The answer for one item. The label and the probabilities, one per class, are None if the item has no text."""

    item: Item
    label: str | None
    probabilities: list[float] | None


Write = Callable[[Sequence[Answer]], None]


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


def write_jsonl(file: TextIO, label_names: Sequence[str], copied: Sequence[str], *, header: bool = True) -> Write:
    """Return a function that writes each answer as a line of JSON."""
    ascii_only = not takes_unicode(file)  # if true, write non-ASCII characters as JSON escapes

    def line(answer: Answer) -> str:
        item, label, probabilities = answer
        by_class = None if probabilities is None else dict(zip(label_names, probabilities, strict=True))
        value = {"number": item.number, **item.copied, "label": label, "probabilities": by_class}
        return json_line(value, ascii_only=ascii_only) + "\n"

    return lambda answers: file.writelines(map(line, answers))


def write_csv(file: TextIO, label_names: Sequence[str], copied: Sequence[str], *, header: bool = True) -> Write:
    """Write the header, unless `header` is false, and return a function that writes each answer as a row."""
    writer = csv.writer(file, lineterminator="\n")
    if header:
        names = [*copied, "label", *(f"{PROBABILITY}{name}" for name in label_names)]
        writer.writerow(["number", *map(csv_cell, names)])
    labels = {name: csv_cell(name) for name in label_names}

    def row(answer: Answer) -> list[object]:
        item, label, probabilities = answer
        by_class = [None] * len(label_names) if probabilities is None else probabilities
        cells = [
            copied_cell(str(cell)) if isinstance(cell, str | list | dict) else cell for cell in item.copied.values()
        ]
        return [item.number, *cells, None if label is None else labels[label], *by_class]

    return lambda answers: writer.writerows(map(row, answers))


def write_text(file: TextIO, label_names: Sequence[str], copied: Sequence[str], *, header: bool = True) -> Write:
    """Return a function that writes each answer as a line for readers, such as `1: positive 97.3 %, negative 2.7 %`."""

    def line(answer: Answer) -> str:
        item, _, probabilities = answer
        cells = ", ".join(f"{name}={shown(cell)}" for name, cell in item.copied.items())
        found = "no text" if probabilities is None else in_percent(dict(zip(label_names, probabilities, strict=True)))
        return printable_line(f"{item.number}{f' ({cells})' if cells else ''}: {found}") + "\n"

    return lambda answers: file.writelines(map(line, answers))


TEXT_FORMATS = {"jsonl": write_jsonl, "csv": write_csv, "text": write_text}
FORMATS = (*TEXT_FORMATS, "parquet")


def format_of(chosen: str | None, output: Path | None, stdout: TextIO) -> str:
    """Return the chosen format.

    If none is chosen, use the format of the output file's extension. Without such a format, use `text` for answers on a
    terminal, and `jsonl` otherwise.

    Raise UserError if Parquet would be written to stdout.
    """
    extension = "" if output is None else output.suffix.lower().removeprefix(".")
    is_terminal = output is None and stdout.isatty()
    name = chosen or (extension if extension in FORMATS else "text" if is_terminal else "jsonl")
    if name == "parquet" and output is None:
        raise UserError("--format parquet cannot be written to stdout. Add --output FILE.")
    return name


def require_output(output: Path, file: Path | None) -> None:
    """Raise UserError if `output` is a folder, is in a missing folder, or is the input file."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output} must be a file in an existing folder.")
    if file is not None and output.exists() and output.samefile(file):
        raise UserError(f"--output={output} is the input file; choose another name.")
