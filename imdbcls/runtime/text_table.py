"""Format tables as text for a terminal, a file or a pipe."""

import io
from collections.abc import Sequence

from imdbcls.printable import printable_line

GAP = 2  # spaces between columns
MIN_TEXT_WIDTH = 16  # wrapping never makes a text column narrower than this


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
    full_widths, min_widths = [], []
    for number, (name, *column) in enumerate(zip(names, *cells, strict=True)):
        widest = max((cell.cell_len for cell in column), default=0)
        longest_word = max((word.cell_len for word in name.split(" ")), default=0)
        full_widths.append(max(widest, name.cell_len))
        min_width = min(widest, MIN_TEXT_WIDTH) if number < num_text_columns else widest
        min_widths.append(max(min_width, longest_word))
    widths = full_widths if width is None else fitted(full_widths, min_widths, width - GAP * (len(names) - 1))

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


def fitted(full_widths: Sequence[int], min_widths: Sequence[int], total: int) -> list[int]:
    """Reduce the widest columns until the sum of all widths is at most `total`. Return the widths.

    A column is never reduced below its width in `min_widths`. If the sum of `min_widths` is larger than `total`, no
    column is reduced.
    """
    widths = list(full_widths)
    if sum(min_widths) > total:
        return widths
    for _ in range(sum(widths) - total):
        widest = max(
            (column for column in range(len(widths)) if widths[column] > min_widths[column]), key=widths.__getitem__
        )
        widths[widest] -= 1
    return widths
