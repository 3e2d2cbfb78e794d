"""`python -m imdbcls.predict` gives one line per text, from any input, with the same probabilities as the run."""

import csv
import io
import json
import math
import re
import shlex
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from support.faults import kill_at_sync
from support.processes import start
from support.runs import Launch
from support.terminals import on_terminal

import imdbcls
from imdbcls.data.answers import Item, output_names
from imdbcls.data.columns import Request
from imdbcls.data.tables import read_table
from imdbcls.data.unlabeled import CHUNK, from_file, in_chunks
from imdbcls.predict import parse, predict

pytestmark = pytest.mark.slow

TEXT = Request((("text_column", "text"),), spelling="option")
TEXTS = ["A quiet, patient film.", "Two hours, “lost”.", "Not bad."]


def answers(*arguments: str, stdin: str = "") -> str:
    out = io.StringIO()
    predict(parse(list(arguments)), io.StringIO(stdin), out)
    return out.getvalue()


def log_odds(answer: dict[str, Any]) -> float:
    return math.log(answer["probabilities"]["positive"] / answer["probabilities"]["negative"])


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
    assert header == ["number", "label", "probability_negative", "probability_positive"]
    assert [[float(cell) for cell in row[2:]] for row in found_rows] == expected.probabilities.tolist()


def test_the_progress_line_is_gone_when_a_pipe_writes_to_the_same_terminal(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Not bad.\n" * 600)
    predict = shlex.join(
        [sys.executable, "-m", "imdbcls.predict", str(finished), "--file", str(tmp_path / "texts.txt")]
    )
    output = on_terminal(["sh", "-c", f"{predict} --format csv | cat"], 80)
    assert "classified 600 rows" in output, "the progress line is shown"
    erased = r"[^\n]*(?:\n\x1b\[\?25h\r\x1b\[1A)?\x1b\[2K"  # `\x1b[1A` moves up a line, and `\x1b[2K` clears it
    shown = re.sub(erased, "", output)
    numbers = [line.partition(",")[0] for line in shown.splitlines() if "," in line]
    assert numbers == ["number", *map(str, range(1, 601))]
    assert "classified" not in shown


def test_probabilities_are_calibrated_unless_uncalibrated(finished: Path, tmp_path: Path) -> None:
    run = imdbcls.load_run(finished)
    temperature = run.result["temperature"]
    assert temperature != 1 and run.temperature == temperature and run.result["temperature_reason"] is None
    raw, calibrated = (
        [json.loads(line) for line in answers(str(finished), *option, *TEXTS).splitlines()]
        for option in (["--uncalibrated"], [])
    )
    for before, after in zip(raw, calibrated, strict=True):
        assert log_odds(after) == pytest.approx(log_odds(before) / temperature) and before["label"] == after["label"]

    earlier = tmp_path / "earlier"  # a run of an earlier version, which recorded no temperature
    shutil.copytree(finished, earlier)
    result = {name: value for name, value in run.result.items() if "temperature" not in name}
    (earlier / "result.json").write_text(json.dumps(result))
    assert imdbcls.load_run(earlier).temperature == temperature


def test_files_are_read_lazily(tmp_path: Path) -> None:
    """Damage after the first thousand texts is not detected in advance."""
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "a"}\n' * (2 * CHUNK) + "no JSON\n")
    items = from_file(path, TEXT).items
    last = [next(items) for _ in range(CHUNK)][-1]
    assert (last.number, last.text) == (CHUNK, "a")
    with pytest.raises(imdbcls.UserError, match=rf"long\.jsonl, line {2 * CHUNK + 1:,} is not valid JSON"):
        list(items)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"id,text\n1,good\n2,good, really good\n", r"a\.csv, line 3: expected 2 fields as in the header"),
        ("a.csv", b"text,text\ngood,bad\n", r"a\.csv, line 1: column 'text' \(.*\) occurs 2 times in"),
        ("a.csv", b'text\n"good\n', r"a\.csv, line 2: this row cannot be read as CSV"),
        (
            "a.csv",
            b'id,text\n1,one\n2,"two\n3,three\n4,four"\n5,five\n',
            r"a\.csv, line 3: a quotation mark opens a field that ends on line 5",
        ),
        ("a.tsv", b'text\tid\n"good\t1\nbad\n', r"a\.tsv, line 3: expected 2 fields as in the header, found 1"),
        ("a.csv", b"text\ngood\nna\xefve\n", r"a\.csv, line 3: byte 0xef at offset 12 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n\xff\n', r"a\.jsonl, line 2: byte 0xff at offset 14 is not UTF-8"),
        ("a.jsonl", b'{"text": ' + 5000 * b"9" + b"}\n", r"a\.jsonl, line 1: this JSON value is too large to parse"),
        ("a.parquet", b"PAR1", r"a\.parquet is not a complete Parquet file"),
        ("a.csv", b"", r"a\.csv is empty; the first line must name the columns"),
    ],
)
def test_broken_row_is_reported_as_in_training(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(imdbcls.UserError, match=sentence):
        list(from_file(tmp_path / name, TEXT).items)
    with pytest.raises(imdbcls.UserError, match=sentence):
        read_table(tmp_path / name, "data.train", Request((("text_column", "text"),)))


def test_blank_lines_are_skipped_and_rows_before_a_mistake_are_answered(finished: Path, tmp_path: Path) -> None:
    found = [json.loads(line)["number"] for line in answers(str(finished), stdin="good\n\n  \nbad\n").splitlines()]
    assert found == [1, 4]
    (tmp_path / "a.csv").write_text("text,stars\ngood,1\nbad,2\nmore\n")
    out = io.StringIO()
    with pytest.raises(imdbcls.UserError, match=r"a\.csv, line 4: expected 2 fields"):
        predict(parse([str(finished), "--file", str(tmp_path / "a.csv")]), io.StringIO(), out)
    assert [json.loads(line)["number"] for line in out.getvalue().splitlines()] == [2, 3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_readable_lines(finished: Path, expected: imdbcls.Predictions, tmp_path: Path) -> None:
    out = Terminal()
    predict(parse([str(finished), *TEXTS]), io.StringIO(), out)
    for number, (line, label, row) in enumerate(
        zip(out.getvalue().splitlines(), expected.names, expected.known_probabilities, strict=True), start=1
    ):
        assert line.startswith(f"{number}: {label} {100 * max(row):.1f} %, ") and line.endswith(
            f"{100 * min(row):.1f} %"
        )
    asked = Terminal()
    predict(parse([str(finished), "--format", "jsonl", TEXTS[0]]), io.StringIO(), asked)
    assert json.loads(asked.getvalue())["label"] == expected.names[0]
    (tmp_path / "a.csv").write_text("text,page\ngood,7\n,\x1b[2J\n")
    text = answers(str(finished), "--file", str(tmp_path / "a.csv"), "--keep", "page", "--format", "text")
    first, second = text.splitlines()
    assert re.fullmatch(r"2 \(page=7\): \w+ \d+\.\d %, \w+ \d+\.\d %", first)
    assert second == r"3 (page=\x1b[2J): no text"


def test_invalid_utf8_is_reported(finished: Path) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"good\ncaf\xe9\n"), encoding="utf-8")
    with pytest.raises(
        imdbcls.UserError, match=r"stdin, line 2: byte 0xe9 is not UTF-8\. Name its encoding: --encoding cp1252"
    ):
        predict(parse([str(finished)]), stdin, io.StringIO())
    with pytest.raises(imdbcls.UserError, match=r"text 1: byte 0xe9 is not UTF-8\. The command line must be"):
        answers(str(finished), "caf\udce9")  # how Python represents an invalid byte of an argument


def test_line_without_the_column_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"words": "y"}\n')
    with pytest.raises(
        imdbcls.UserError, match=r"a\.jsonl, line 2, has no column 'text' \(--text-column\); it has 'words'"
    ):
        list(from_file(tmp_path / "a.jsonl", TEXT).items)


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        (["", "x"], "", "text 1 is empty, so it cannot be classified"),
        (["--file", "d.csv"], "", r"d.csv has no column 'text' \(--text-column\); it has 'id', 'review'"),
        (["--file", "d.csv", "--keep", "id,stars"], "", r"no columns 'text' .* and 'stars' \(--keep\); it has 'id'"),
        (["--file", "n.jsonl"], "", r"n.jsonl, line 1: 'text' must be a string, not a value of type int"),
        (["--file", "d.csv", "--text-column", "review", "--output", "d.csv"], "", "--output=d.csv is the input file"),
        (["--file", "d.csv", "--output", "no/d.csv"], "", "--output=no/d.csv must be a file in an existing"),
        (["--keep", "id", "--quoting", "none", "x"], "", "--keep, --quoting can only be used with --file"),
        (["--file", "nowhere.csv"], "", "--file=nowhere.csv does not exist"),
        (["--file", "d.csv", "x"], "", "on the command line or in --file, not both"),
    ],
)
def test_value_that_is_not_text_is_reported(
    arguments: list[str], stdin: str, sentence: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("id,review\n1,good\n2,\n")
    Path("n.jsonl").write_text('{"text": 5}\n')
    with pytest.raises(imdbcls.UserError, match=sentence):
        answers(str(finished), *arguments, stdin=stdin)


EMPTY = [  # the same rows in three formats: an empty text, a text of two lines, a missing text
    {"ticket": "t1", "text": "A quiet, patient film.", "label": "positive", "score": 1.5},
    {"ticket": "t2", "text": " ", "label": "negative", "score": None},
    {"ticket": "t3", "text": "Two hours,\n\nlost.", "label": "negative", "score": 2.0},
    {"ticket": "t4", "text": None, "label": "positive", "score": 3.0},
]


def write_rows(path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in EMPTY))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(EMPTY), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(EMPTY[0]))
            writer.writeheader()
            writer.writerows(EMPTY)
    return path


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_answers_include_ids_columns_and_empty_rows(
    extension: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / f"rows.{extension}")
    arguments = [str(finished), "--file", str(path), "--id-column", "ticket", "--keep", "score, label"]
    found = [json.loads(line) for line in answers(*arguments).splitlines()]
    assert list(found[0]) == ["number", "id", "score", "input_label", "label", "probabilities"]
    assert [row["id"] for row in found] == ["t1", "t2", "t3", "t4"]
    assert [row["input_label"] for row in found] == [row["label"] for row in EMPTY]
    expected = ["1.5", "", "2.0", "3.0"] if extension == "csv" else [1.5, None, 2.0, 3.0]
    assert [row["score"] for row in found] == expected
    assert [row["label"] is None for row in found] == [False, True, False, True]
    assert [row["probabilities"] is None for row in found] == [False, True, False, True]
    alone = imdbcls.load_run(finished).predict([str(EMPTY[0]["text"]), str(EMPTY[2]["text"])])
    assert [row["label"] for row in found[::2]] == alone.names
    assert f"Classified 4 rows of {path}; 2 have no text and got a null label (first: " in capsys.readouterr().err

    output = tmp_path / "answers.csv"
    assert answers(*arguments, "--output", str(output)) == ""
    header, *rows = csv.reader(output.open(newline=""))
    columns = ["number", "id", "score", "input_label", "label", "probability_negative", "probability_positive"]
    assert header == columns
    assert rows[1][1:] == ["t2", "", "negative", "", "", ""] and rows[0][4] == found[0]["label"]


def test_the_id_column_of_the_runs_data_is_the_default(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    columns = {"text_column": "text", "label_column": "label", "id_column": "ticket", "group_column": None}
    files = {"train": "tickets.csv", "validation": None, "test": None}
    config["data"]["source"] = {"_target_": "imdbcls.data.files.read_files", **files, **columns}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    path = write_rows(tmp_path / "rows.csv")
    assert [json.loads(line)["id"] for line in answers(str(run), "--file", str(path)).splitlines()][::3] == ["t1", "t4"]
    path.write_text("text\ngood\n")
    assert "id" not in json.loads(answers(str(run), "--file", str(path)))
    assert "does not have exactly one column named 'ticket' (the id column" in capsys.readouterr().err


def test_copied_columns_get_unique_names() -> None:
    columns = [("id_column", "ref"), ("keep", "ref"), ("keep", "text"), ("keep", "id"), ("keep", "probability_x")]
    assert output_names(columns) == {
        "ref": "id",
        "text": "text",
        "id": "input_id",
        "probability_x": "input_probability_x",
    }


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `predict` read chunks of 4, 4, 8 and then 16 texts."""
    monkeypatch.setattr("imdbcls.data.unlabeled.FIRST_CHUNK", 4)
    monkeypatch.setattr("imdbcls.data.unlabeled.CHUNK", 16)


def rows_file(path: Path, num_rows: int = 40) -> Path:
    rows = [{"key": row, "text": None if row == 5 else f"{TEXTS[row % 3]} {row}"} for row in range(num_rows)]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def interrupt_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate Ctrl-C in chunk number `call`. Return a list that collects the number of texts of each chunk."""
    sizes: list[int] = []
    original = imdbcls.FinishedRun.predict_with_counts

    def predict_with_counts(run: imdbcls.FinishedRun, texts: list[str], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(texts))
        if len(sizes) == call:
            raise KeyboardInterrupt
        return original(run, texts, *arguments, **options)

    monkeypatch.setattr(imdbcls.FinishedRun, "predict_with_counts", predict_with_counts)
    return sizes


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_interrupted_command_continues_with_the_same_bits(
    extension: str,
    finished: Path,
    small_chunks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = rows_file(tmp_path / "texts.parquet")
    undisturbed, output = tmp_path / f"undisturbed.{extension}", tmp_path / f"answers.{extension}"
    arguments = [str(finished), "--file", str(texts), "--id-column", "key", "--output"]
    answers(*arguments, str(undisturbed))
    output.write_text("an earlier file")
    sizes = interrupt_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        answers(*arguments, str(output))
    assert output.read_text() == "an earlier file"
    part = tmp_path / f"answers.{extension}.part"
    with (part / "answers").open("ab") as file:  # a killed process may have written answers after the last saved state
        file.write(b"half an answer")
    assert f"The answers for the first 8 rows are in {part}. The same command continues" in capsys.readouterr().err
    sizes[:] = [0] * 3
    answers(*arguments, str(output))
    assert sizes[3:] == [8, 16, 8] and not part.exists()
    assert output.read_bytes() == undisturbed.read_bytes()
    if extension == "parquet":
        assert parquet.read_schema(output).metadata[b"format_version"] == b"1"
    assert "Classified 40 rows of" in (err := capsys.readouterr().err) and "(first: row 6)" in err


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_killed_command_continues_with_the_same_bits(extension: str, finished: Path, tmp_path: Path) -> None:
    """SIGKILL arrives when the answers of the second chunk are written, after the 1,024 rows of the first chunk."""
    texts, output = rows_file(tmp_path / "texts.parquet", 3200), tmp_path / f"answers.{extension}"
    arguments = [str(finished), "--file", str(texts), "--id-column", "key", "--output"]
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare = partial(kill_at_sync, 2)
    command = start(folder, *arguments, str(output), command="imdbcls.predict", prepare=prepare)
    part = tmp_path / f"answers.{extension}.part"
    assert command.wait() == -signal.SIGKILL, command.output
    state = json.loads((part / "state.json").read_text())
    assert state["tally"]["num_rows"] == 1024 and not output.exists()

    again = start(folder, *arguments, str(output), command="imdbcls.predict")
    assert again.wait() == 0, again.output
    assert "Continuing after 1,024 rows" in again.output and not part.exists()
    undisturbed = tmp_path / f"undisturbed.{extension}"
    assert start(folder, *arguments, str(undisturbed), command="imdbcls.predict").wait() == 0
    assert output.read_bytes() == undisturbed.read_bytes()


def test_command_that_is_killed_after_its_last_row(
    finished: Path, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are already in the output, and the folder with the state remains."""
    texts, output = rows_file(tmp_path / "texts.parquet"), tmp_path / "answers.csv"
    arguments = [str(finished), "--file", str(texts), "--output", str(output)]
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("imdbcls.data.answer_file.sync", raise_interrupt)
        answers(*arguments)
    complete = output.read_bytes()
    assert (tmp_path / "answers.csv.part" / "state.json").exists()
    sizes = interrupt_at(1, monkeypatch)
    answers(*arguments)
    assert sizes == [] and output.read_bytes() == complete and not (tmp_path / "answers.csv.part").exists()


def test_changed_environment_is_reported(
    finished: Path,
    small_chunks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts, output = rows_file(tmp_path / "texts.parquet"), tmp_path / "answers.csv"
    arguments = [str(finished), "--file", str(texts), "--output", str(output)]
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupt_at(2, interrupted)
        answers(*arguments)
    state = tmp_path / "answers.csv.part" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "environment": {**content["environment"], "processor": "another"}}))
    capsys.readouterr()
    answers(*arguments)
    assert "processor another → " in (err := capsys.readouterr().err) and "the last digits of the answers may" in err


def test_error_of_the_model_is_not_an_error_of_the_output(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = rows_file(tmp_path / "texts.parquet")
    arguments = [str(finished), "--file", str(texts), "--output", str(tmp_path / "answers.jsonl")]
    with monkeypatch.context() as failing, pytest.raises(OSError, match="the weights cannot be read"):
        failing.setattr(imdbcls.FinishedRun, "predict_with_counts", raise_os_error)
        answers(*arguments)
    monkeypatch.setattr("imdbcls.data.answer_file.sync_file", raise_os_error)
    with pytest.raises(imdbcls.UserError, match=r"--output=.*answers\.jsonl cannot be written \(the weights"):
        answers(*arguments)


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def raise_os_error(*_: object, **__: object) -> None:
    raise OSError("the weights cannot be read")


def test_output_of_another_command_is_not_continued(
    finished: Path, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, output = rows_file(tmp_path / "texts.parquet"), tmp_path / "answers"
    arguments = [str(finished), "--file", str(texts), "--output", str(output)]
    interrupt_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        answers(*arguments)
    for more, different in (
        (["--format", "csv"], "format"),
        (["--keep", "key"], "columns"),
        (["--shard", "1/2"], "shard"),
    ):
        with pytest.raises(imdbcls.UserError, match=rf"answers\.part was begun with another {different}\. Delete this"):
            answers(*arguments, *more)
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    (other / "result.json").write_text((finished / "result.json").read_text() + " ")
    with pytest.raises(imdbcls.UserError, match="was begun with another run"):
        answers(str(other), *arguments[1:])
    rows = parquet.read_table(texts).to_pylist()
    parquet.write_table(pa.Table.from_pylist([{**rows[0], "text": "Another film."}, *rows[1:]]), texts)
    with pytest.raises(imdbcls.UserError, match="The first 8 rows of the input differ from the rows whose answers"):
        answers(*arguments)
    parquet.write_table(pa.Table.from_pylist([*rows[:-1], {**rows[-1], "text": "Another film."}]), texts)
    answers(*arguments)  # a row without an answer may change
    assert len(output.read_text().splitlines()) == 40


def test_shards_together_classify_all_texts(finished: Path, small_chunks: None, tmp_path: Path) -> None:
    arguments = [str(finished), "--file", str(rows_file(tmp_path / "texts.parquet"))]
    shards = [answers(*arguments, "--shard", f"{index}/3").splitlines() for index in (1, 2, 3)]
    numbers = [[json.loads(line)["number"] for line in shard] for shard in shards]
    assert numbers == [list(range(index, 41, 3)) for index in (1, 2, 3)]
    whole = [json.loads(line) for line in answers(*arguments).splitlines()]
    for line in (json.loads(line) for shard in shards for line in shard):
        expected = whole[line["number"] - 1]
        assert line["label"] == expected["label"]
        assert line["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(SystemExit):
            parse([*arguments, "--shard", wrong])


def test_parquet_answers_keep_the_types_of_copied_columns(finished: Path, tmp_path: Path) -> None:
    texts = rows_file(tmp_path / "texts.parquet", 6)
    output = tmp_path / "answers.parquet"
    answers(str(finished), "--file", str(texts), "--id-column", "key", "--keep", "text", "--output", str(output))
    table = parquet.read_table(output)
    names = ["number", "id", "text", "label", "probability_negative", "probability_positive"]
    assert table.column_names == names and table.schema.field("id").type == pa.int64()
    lines = [json.loads(line) for line in answers(str(finished), "--file", str(texts)).splitlines()]
    assert table["number"].to_pylist() == [line["number"] for line in lines]
    assert table["label"].to_pylist() == [line["label"] for line in lines]
    expected = [line["probabilities"] and line["probabilities"]["positive"] for line in lines]
    assert table["probability_positive"].to_pylist() == expected
    (tmp_path / "texts.jsonl").write_text('{"text": "A film.", "tags": ["a", 1], "key": 5}\n')
    answers(str(finished), "--file", str(tmp_path / "texts.jsonl"), "--keep", "tags,key", "--output", str(output))
    assert parquet.read_table(output).select(["tags", "key"]).to_pylist() == [{"tags": '["a", 1]', "key": "5"}]
    with pytest.raises(imdbcls.UserError, match=r"--format parquet cannot be written to stdout\. Add"):
        answers(str(finished), "A film.", "--format", "parquet")


def test_chunk_of_long_texts_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdbcls.data.unlabeled.CHUNK_CHARACTERS", 100)
    items = [Item(number, "x" * 40) for number in range(5)]
    assert [len(chunk) for chunk in in_chunks(iter(items))] == [3, 2]
