"""`python -m imdbcls.predict`: texts from anywhere, a line each, the probabilities that the run itself gives."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Launch
from pyarrow import parquet

import imdbcls
from imdbcls.data.tables import read_table
from imdbcls.predict import CHUNK, parse, predict, read_file

pytestmark = pytest.mark.slow

TEXTS = ["A quiet, patient film.", "Two hours, “lost”.", "Not bad."]


def answers(*arguments: str, stdin: str = "") -> str:
    out = io.StringIO()
    predict(parse(list(arguments)), io.StringIO(stdin), out)
    return out.getvalue()


@pytest.fixture(scope="module")
def expected(finished: Path) -> imdbcls.Predictions:
    return imdbcls.load_run(finished).predict(TEXTS)


def test_texts_from_the_command_line_stdin_and_files(
    finished: Path, expected: imdbcls.Predictions, launch: Launch, tmp_path: Path
) -> None:
    rows = [{"text": text, "stars": 1} for text in TEXTS]
    with (tmp_path / "texts.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("stars", "text"), *((1, text) for text in TEXTS)])
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "texts.parquet")

    done = launch(tmp_path, "predict", str(finished), *TEXTS)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert [line["label"] for line in lines] == expected.names
    assert [list(line["probabilities"].values()) for line in lines] == expected.probabilities.tolist()
    assert list(lines[0]["probabilities"]) == ["negative", "positive"]

    assert answers(str(finished), stdin="\n".join(TEXTS)) == done.stdout
    for name, first in (("texts.jsonl", 1), ("texts.parquet", 1), ("texts.csv", 2)):
        found = [json.loads(line) for line in answers(str(finished), "--file", str(tmp_path / name)).splitlines()]
        assert found == [{**line, "number": line["number"] + first - 1} for line in lines], name
    header, *found_rows = csv.reader(answers(str(finished), *TEXTS, "--format", "csv").splitlines())
    assert header == ["number", "label", "probability of negative", "probability of positive"]
    assert [[float(cell) for cell in row[2:]] for row in found_rows] == expected.probabilities.tolist()


def test_files_are_read_as_their_texts_are_wanted(tmp_path: Path) -> None:
    """What is damaged behind the first thousand texts is not known before."""
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "a"}\n' * (2 * CHUNK) + "no JSON\n")
    texts = read_file(path, "text")
    assert [next(texts) for _ in range(CHUNK)][-1] == (CHUNK, "a")
    with pytest.raises(imdbcls.UserError, match=r"long\.jsonl, line 2,001: not a JSON value"):
        list(texts)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"id,text\n1,good\n2,good, really good\n", r"a\.csv, line 3: expected 2 fields as in the header"),
        ("a.csv", b"text,text\ngood,bad\n", r"a\.csv, line 1: a column name occurs twice"),
        ("a.tsv", b'text\n"good\n', r"a\.tsv, line 2: this row cannot be read as CSV"),
        ("a.csv", b"text\ngood\nna\xefve\n", r"a\.csv, line 3: byte 0xef at offset 12 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n\xff\n', r"a\.jsonl, line 2: byte 0xff at offset 14 is not UTF-8"),
        ("a.jsonl", b'{"text": ' + 5000 * b"9" + b"}\n", r"a\.jsonl, line 1: this JSON value is beyond reading"),
        ("a.parquet", b"PAR1", r"a\.parquet is not a whole Parquet file"),
        ("a.csv", b"", r"a\.csv is empty; the first line must name the columns"),
    ],
)
def test_a_broken_row_is_named_as_it_is_when_training(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(imdbcls.UserError, match=sentence):
        list(read_file(tmp_path / name, "text"))
    with pytest.raises(imdbcls.UserError, match=sentence):
        read_table(tmp_path / name, "data.train")


def test_blank_lines_are_left_out_and_what_came_before_a_mistake_is_answered(finished: Path, tmp_path: Path) -> None:
    found = [json.loads(line)["number"] for line in answers(str(finished), stdin="good\n\n  \nbad\n").splitlines()]
    assert found == [1, 4]
    (tmp_path / "a.csv").write_text("text,stars\ngood,1\nbad,2\n,3\n")
    out = io.StringIO()
    with pytest.raises(imdbcls.UserError, match=r"a\.csv, line 4: there is no text to classify"):
        predict(parse([str(finished), "--file", str(tmp_path / "a.csv")]), io.StringIO(), out)
    assert [json.loads(line)["number"] for line in out.getvalue().splitlines()] == [2, 3]


def test_bytes_that_are_no_text_are_named(finished: Path) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"good\ncaf\xe9\n"), encoding="utf-8")
    with pytest.raises(imdbcls.UserError, match="stdin is not in utf-8: byte 0xe9"):
        predict(parse([str(finished)]), stdin, io.StringIO())
    with pytest.raises(
        imdbcls.UserError, match="text 1: the text holds half of a character, or bytes that are not UTF-8"
    ):
        answers(str(finished), "caf\udce9")  # as Python has an argument's byte


def test_a_line_without_the_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"words": "y"}\n')
    with pytest.raises(
        imdbcls.UserError, match=r"a\.jsonl, line 2, has no column 'text' \(--text-column\); it has 'words'"
    ):
        list(read_file(tmp_path / "a.jsonl", "text"))


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        (["", "x"], "", "text 1: there is no text to classify"),
        (["--file", "d.csv"], "", r"d.csv has no column 'text' \(--text-column\); it has 'id', 'review'"),
        (["--file", "d.csv", "--text-column", "review"], "", "d.csv, line 3: there is no text to classify"),
        (["--file", "nowhere.csv"], "", "--file=nowhere.csv: there is no such file"),
        (["--file", "d.csv", "x"], "", "on the command line or in --file, not both"),
    ],
)
def test_what_is_no_text_is_named(
    arguments: list[str], stdin: str, sentence: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("id,review\n1,good\n2,\n")
    with pytest.raises(imdbcls.UserError, match=sentence):
        answers(str(finished), *arguments, stdin=stdin)
