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
    with pytest.raises(imdbcls.UserError, match=r"long\.jsonl cannot be read as JSON Lines"):
        list(texts)


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        ([], "good\n\nbad\n", "stdin, line 2: there is no text to classify"),
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
