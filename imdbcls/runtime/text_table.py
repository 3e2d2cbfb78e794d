"""Format tables as text for a terminal, a file or a pipe."""

import io
import re
from collections.abc import Sequence

from imdbcls.printable import printable_line

GAP = 2  # spaces between columns
MIN_TEXT_WIDTH = 16  # wrapping never makes a text column narrower than this

# A command to copy: its name, and arguments with a dash, `=`, `/`, quotes, a file extension or capital letters (a
# placeholder).
_ARGUMENT = r"""(?:-[-\w]+|'[^']*'|"[^"]*"|[A-Z][A-Z_]+\b|[^\s=/]*[=/]\S*|\S+\.\w+)"""
COMMAND = re.compile(rf"(?:python -m imdbcls\S*|imdbcls \w+|pip install \S+|scancel \S+|wandb \w+)(?: {_ARGUMENT})*")
_NO_BREAK = "\ue000"  # a private character that stands for a space in a command


def text_table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] | None = None,
    num_text_columns: int = 1,
    width: int | None = None,
) -> str:
    """Return a table as aligned lines.

    The first `num_text_columns` columns are text, aligned left. The other columns are numbers, aligned right. Text
    cells and headers wrap so that no line is longer than `width` characters; numbers never wrap. Without `width`, or if
    wrapping cannot make the table narrow enough, each row is one line of any length.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = [Text(printable_line(name)) for name in ([""] * len(rows[0]) if header is None else header)]
    cells = [[Text(printable_line(cell)) for cell in row] for row in rows]
    widths, *narrower = widths_of(rows, header, num_text_columns)
    if width is not None:
        widths = fitted([widths, *narrower], width - GAP * (len(names) - 1))

    # Rich would shrink number columns too, so each column gets a fixed width.
    table = Table(box=box.SIMPLE_HEAD, show_header=header is not None, show_edge=False, pad_edge=False)
    table.padding = (0, GAP - 1, 0, 0)  # the box adds one space
    for number, (name, column_width) in enumerate(zip(names, widths, strict=True)):
        is_text = number < num_text_columns
        table.add_column(name, justify="left" if is_text else "right", width=column_width, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(file=io.StringIO(), color_system=None, force_jupyter=False, legacy_windows=False, width=1_000_000)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def widths_of(
    rows: Sequence[Sequence[str]], header: Sequence[str] | None, num_text_columns: int
) -> tuple[list[int], list[int], list[int]]:
    """Return three lists of column widths: without wrapping, with wrapped headers, with wrapped headers and text."""
    from rich.cells import cell_len

    names = [""] * len(rows[0]) if header is None else [printable_line(name) for name in header]
    full, with_short_headers, smallest = [], [], []
    for number, name in enumerate(names):
        widest = max((cell_len(printable_line(row[number])) for row in rows), default=0)
        longest_word = max((cell_len(word) for word in name.split(" ")), default=0)
        full.append(max(widest, cell_len(name)))
        with_short_headers.append(max(widest, longest_word))
        smallest.append(max(min(widest, MIN_TEXT_WIDTH) if number < num_text_columns else widest, longest_word))
    return full, with_short_headers, smallest


def smallest_width(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] | None,
    num_text_columns: int = 1,
    wraps_text: bool = True,
) -> int:
    """Return the smallest `width` to which `text_table` can wrap headers and, with `wraps_text`, text cells."""
    _, with_short_headers, smallest = widths_of(rows, header, num_text_columns)
    return sum(smallest if wraps_text else with_short_headers) + GAP * (len(smallest) - 1)


def wrapped(text: str, width: int, start: str = "", indent: str | None = None) -> str:
    """Wrap a text at spaces to lines of at most `width` columns.

    The first line begins with `start`, and the other lines with `indent` (None: as many spaces as `start` is wide).
    Paths and commands with their arguments are never broken, so that they can be copied: their line may be longer than
    `width`. Other words are broken only if they are longer than a line.
    """
    from rich.cells import cell_len, chop_cells

    indent = " " * cell_len(start) if indent is None else indent
    unbroken = COMMAND.sub(lambda command: command[0].replace(" ", _NO_BREAK), printable_line(text))
    room = max(1, width - max(cell_len(start), cell_len(indent)))
    lines, gap = [start], ""  # the spaces before the next word
    for word in unbroken.split(" "):
        if word:
            first, *rest = [word] if "/" in word or _NO_BREAK in word else chop_cells(word, room)
            if lines[-1] == start or cell_len(lines[-1] + gap + first) <= width:
                lines[-1] += gap + first
            else:
                lines.append(indent + first)
            lines += [indent + part for part in rest]
            gap = ""
        gap += " "
    return "\n".join(line.rstrip() for line in lines).replace(_NO_BREAK, " ")


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Cut the names to `width` columns with an ellipsis, or return them unchanged if they would not be distinct."""
    from rich.text import Text

    short = []
    for name in names:
        text = Text(printable_line(name))
        text.truncate(width, overflow="ellipsis")
        short.append(text.plain)
    return short if len(set(short)) == len(set(names)) else list(names)


def fitted(widths: Sequence[Sequence[int]], total: int) -> list[int]:
    """Return column widths whose sum is at most `total`.

    `widths` has several lists of column widths, the widest list first. If the sum of the first list is too large, the
    widest column is narrowed, one character at a time, until the sum is small enough. The columns are first narrowed to
    the widths in the second list, then in the third list, and so on. If even the last list is too wide, the first list
    is returned.
    """
    found, *smaller = widths
    if sum(widths[-1]) > total:
        return list(found)
    for minima in smaller:
        found = list(found)
        while sum(found) > total and any(now > least for now, least in zip(found, minima, strict=True)):
            found[max((i for i, now in enumerate(found) if now > minima[i]), key=found.__getitem__)] -= 1
    return list(found)


def joined(names: Sequence[str], word: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
