"""Tables have complete lines in a file or a pipe. On a terminal they wrap text but never numbers."""

import pytest

from imdbcls.runtime.text_table import text_table

HEADER = ["group", "accuracy %", "95 % interval"]
ROWS = [["lstm [bold]x[/bold]", "52.50", "36.27 to 68.73"], ["字幕" + " a long name" * 4, "9.00", "-1.00 to +2.00"]]


def test_a_table_without_a_width_is_aligned_and_complete() -> None:
    assert text_table(ROWS, HEADER).splitlines() == [
        "group                                                 accuracy %   95 % interval",
        "────────────────────────────────────────────────────────────────────────────────",
        "lstm [bold]x[/bold]                                        52.50  36.27 to 68.73",
        "字幕 a long name a long name a long name a long name        9.00  -1.00 to +2.00",
    ]
    (line,) = text_table([["name", "failed", "word " * 400]], num_text_columns=3).splitlines()
    assert line == "name  failed  " + " ".join(["word"] * 400)


def test_text_and_headers_wrap_to_a_terminal() -> None:
    lines = text_table(ROWS, HEADER, width=46).splitlines()
    assert max(map(len, lines)) <= 46 and len(lines) > 5
    assert any(line.endswith("52.50  36.27 to 68.73") for line in lines)
    assert " ".join(line[:20].strip() for line in lines if "─" not in line).split()[-3:] == ["a", "long", "name"]


@pytest.mark.parametrize("width", [1, 20, 36])
def test_numbers_that_do_not_fit_are_not_truncated(width: int) -> None:
    assert text_table(ROWS, HEADER, width=width) == text_table(ROWS, HEADER)


def test_a_cell_cannot_add_a_line_or_a_control_character() -> None:
    assert text_table([["a\nb\x1b[31m", "1"]]) == "a b\\x1b[31m  1"
