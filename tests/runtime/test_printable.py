"""Untrusted text never controls a terminal, adds a line or becomes a formula, wherever it is written."""

import csv
import io
import json
import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdbcls.comparison.group import Group
from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison, MetricSummary
from imdbcls.comparison.run_files import Run
from imdbcls.comparison.study import Study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.csv_table import csv_text
from imdbcls.comparison.views.json_document import comparison_json
from imdbcls.config.checking import require_valid
from imdbcls.data.answers import Answer, Item, write_csv, write_jsonl
from imdbcls.data.card import DataCard, SplitCard, card_text
from imdbcls.data.token_counts import TokenCounts
from imdbcls.errors import UserError
from imdbcls.printable import copied_cell, counted, csv_cell, json_line, printable, printable_line
from imdbcls.runs.predictions import Predictions
from imdbcls.runs.untrusted import require_no_links
from imdbcls.runtime import console

# Escape sequences (also as C1 controls), a bell, a fake message, direction controls, a tag, half a character.
HOSTILE = "a\x1b]0;title\x07b\x9b31mc\r\nimdbcls: all is well\u202egnp\u2066\u2028d\x7f\x00\U000e0041\udce9\x85e\u200bf"
LEGITIMATE = "naïve Größe 字幕 фильм שלום مرحبا می\u200cخواهم 👩\u200d💻 e\u0301 ½ “quoted” — ﬁ \U0001f3f4"  # noqa: RUF001


def is_safe(text: str) -> bool:
    return not any(character in text for character in set(HOSTILE) if not character.isascii() or ord(character) < 32)


def test_control_characters_are_escaped_and_other_text_is_unchanged() -> None:
    for make in (printable, printable_line):
        assert make(LEGITIMATE) == LEGITIMATE
    assert printable("a\tb\nc\rd") == "a\tb\nc\\rd"
    assert printable_line("a\tb\n\n c\r\nd\n") == "a b c d"
    assert printable_line(HOSTILE) == (
        r"a\x1b]0;title\x07b\x9b31mc imdbcls: all is well\u202egnp\u2066\u2028d\x7f\x00\U000e0041\udce9\x85e\u200bf"
    )
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if printable_line(character) != character:
            assert character.isspace() or not character.isprintable(), hex(code)


def test_messages_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("imdbcls.test")
    logger.info(f"one\n{HOSTILE}")
    logger.warning(HOSTILE)
    output = capsys.readouterr().err
    assert is_safe(output.replace("\n", ""))
    assert [line[:10] for line in output.splitlines()] == ["one", "a\\x1b]0;ti", "imdbcls: a", "warning: a"]


def test_error_with_line_ends_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit), console.user_errors():
        raise UserError(f"{HOSTILE} is not a number.", "The second mistake.")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("imdbcls: a\\x1b") and second == "The second mistake."
    assert is_safe(first)
    with pytest.raises(UserError) as refused:
        require_valid({f"{HOSTILE}.": 1, **{key: HOSTILE for key in ("backbone", "head", "data", "loss")}})
    assert is_safe(str(refused.value).replace("\n", ""))
    assert not any(line.startswith("imdbcls") for line in str(refused.value).splitlines())
    (tmp_path / "\x1b[31mlink\n").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"/\\x1b\[31mlink is a symbolic link"):
        require_no_links(tmp_path)


def test_library_messages_and_tracebacks_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = logging.getLogger(), logging.getLogRecordFactory()
    own = logging.StreamHandler(io.StringIO())  # like a library's own handler
    monkeypatch.setattr(root, "handlers", [*root.handlers, own])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.delenv(console.LEVEL_VARIABLE, raising=False)
    with warnings.catch_warnings():
        try:
            console.log_to_stderr()
            console.log_to_stderr()  # the second call adds no handler
            logging.getLogger("somewhere").error("model type %s", HOSTILE)
            warnings.warn(HOSTILE, UserWarning, stacklevel=1)
            logging.getLogger("somewhere").error("unexpected", exc_info=ValueError(HOSTILE))
        finally:
            logging.setLogRecordFactory(before)
            root.manager._clear_cache()  # type: ignore[attr-defined]
    assert own.stream.getvalue().startswith(printable(f"model type {HOSTILE}\n"))
    output = capsys.readouterr().err
    assert is_safe(output.replace("\n", ""))
    assert output.count("model type a") == output.count("UserWarning: a") == output.count("ValueError: a") == 1


NAMES = (HOSTILE, "=cmd|'/c calc'!A1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1", "negative")


def predictions() -> Predictions:
    probabilities_NC = np.eye(len(NAMES)) * 0.9 + 0.1 / len(NAMES)
    rows = np.arange(len(NAMES))
    return Predictions(rows.astype(str).astype(object), None, rows, probabilities_NC, np.ones_like(rows), None, NAMES)


def write_all(write_format: Any, file: io.StringIO) -> None:
    probabilities = predictions().probabilities.tolist()
    named = enumerate(zip(NAMES, probabilities, strict=True))
    write_format(file, NAMES, ())([Answer(Item(row, "a text"), name, given) for row, (name, given) in named])


def test_json_answers_escape_control_characters() -> None:
    out = io.StringIO()
    write_all(write_jsonl, out)
    lines = out.getvalue().splitlines()
    assert [json.loads(line)["label"] for line in lines] == list(NAMES)
    assert all(is_safe(line) for line in lines)
    assert json_line({"text": LEGITIMATE}) == json.dumps({"text": LEGITIMATE}, ensure_ascii=False)
    assert json.loads(json_line(HOSTILE)) == HOSTILE
    text = comparison_json(hostile_comparison())
    assert json.loads(text)["groups"][0]["backbone"] == HOSTILE and is_safe(text.replace("\n", ""))


def test_csv_answers_contain_no_formula() -> None:
    out = io.StringIO()
    write_all(write_csv, out)
    header, *rows = csv.reader(io.StringIO(out.getvalue()))
    assert is_safe(out.getvalue().replace("\n", "")) and len(rows) == len(NAMES)
    assert [row[1] for row in rows[1:]] == [
        "'=cmd|'/c calc'!A1",
        "'+1",
        "'-1",
        "'@SUM(1)",
        r"'\t=1",
        r"'\r=1",
        "' =1",
        "'\uff1d1",
        "negative",
    ]
    assert header[2] == f"probability_{csv_cell(HOSTILE)}"
    assert [float(cell) for cell in rows[0][2:]] == predictions().probabilities[0].tolist()  # numbers stay numbers


def test_copied_cell_keeps_lines_and_numbers_but_is_not_a_formula() -> None:
    for text in ("-5", "+49", "1e-3", "two\nlines\tand a tab", LEGITIMATE):
        assert copied_cell(text) == text
    assert copied_cell("=1+1") == "'=1+1" and copied_cell("@user -1") == "'@user -1"
    out = io.StringIO()
    write_csv(out, NAMES, ["id"])([Answer(Item(1, None, {"id": HOSTILE}), None, None)])
    assert "\x1b" not in out.getvalue() and "\u202e" not in out.getvalue()


def hostile_comparison() -> Comparison:
    """Return a comparison of one group whose names are formulas and control characters."""
    found = predictions()
    run = Run("=run", {"seed": 0}, {}, [], replace(found, labels=found.predicted))
    group = Group("=1+1", "@x", HOSTILE, (run,))
    comparison = compare_study(Study("-x", (group,), NAMES, ()), METRICS["accuracy"], None)
    accuracy = MetricSummary(-0.5, low=0.0, high=1.0, std=None, values=(-0.5,))
    summary = replace(comparison.groups[0], metrics={"test/accuracy": accuracy}, primary=accuracy)
    return replace(comparison, groups=(summary,))


def test_csv_comparison_escapes_formulas_but_not_negative_numbers() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(hostile_comparison()))))
    assert rows[1][:6] == ["'-x", "'=1+1", "'@x", csv_cell(HOSTILE), "test/accuracy", "-0.5"]
    assert all(is_safe(cell) for row in rows for cell in row)


def test_a_number_has_the_singular_or_the_plural_of_its_noun() -> None:
    found = [counted(number, "run") for number in (0, 1, 2, 1200)]
    assert found == ["0 runs", "1 run", "2 runs", "1,200 runs"]


def test_data_card_and_repr_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    split = SplitCard(
        class_counts=(1, 1),
        lengths=np.array([3, 4]),
        num_windows=None,
        num_with_gaps=0,
        num_clusters=None,
        num_repeated=0,
        num_in_train=0,
        counts=TokenCounts(2, 7, 3, 0, 0, 0, 0, 0, 0),
    )
    splits = dict.fromkeys(("train", "validation", "test"), split)
    card = DataCard(HOSTILE, "tiny", 64, "head", (HOSTILE, "b"), splits, "0", ())
    console.write_out(card_text(card))
    lines = capsys.readouterr().out.splitlines()
    assert all(is_safe(line) for line in lines)
    assert not any(line.startswith("imdbcls") for line in lines)
    assert is_safe(repr(predictions()))
