"""Tables have complete lines in a file or a pipe. On a terminal they wrap text but never numbers."""

import pytest

from imdbcls.runtime.text_table import text_table, wrapped

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


TEXT = "Wait, or see runs/a study/with-a-long-name-s0-1a2b3c4d: {}."
COMMANDS = (
    "python -m imdbcls.compare runs/heads",
    "python -m imdbcls.train --multirun head=cls,lstm 'lr=tag(log,interval(1e-5,1e-3))' seed=0,1 --dry-run",
    "python -m imdbcls.predict RUN --file new.csv",
    "pip install optuna",
    "scancel 123_4",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", range(16, 120, 7))
def test_wrapping_breaks_only_at_spaces_outside_commands(command: str, width: int) -> None:
    text = TEXT.format(command)
    lines = wrapped(text, width, "- ", indent="    ").splitlines()
    assert " ".join(line.strip() for line in lines) == f"- {text}"
    assert sum(command in line for line in lines) == 1
    assert all(line.startswith("    ") for line in lines[1:])
    for line in lines:
        assert len(line) <= width or " " not in line.removeprefix("- ").strip().replace(command, "")


def test_wrapping_keeps_columns_and_counts_wide_characters() -> None:
    assert wrapped("epoch 1/3  loss 0.5  best", 80) == "epoch 1/3  loss 0.5  best"
    assert wrapped("epoch 1/3  loss 0.5  best", 13) == "epoch 1/3\nloss 0.5\nbest"
    assert wrapped("字幕 字幕 字幕", 9) == "字幕 字幕\n字幕"
    assert wrapped("", 5) == "" and wrapped("a 字幕字幕 b", 5) == "a\n字幕\n字幕\nb"
