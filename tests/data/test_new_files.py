"""New files for a finished run have the format of the run's data by default. One column needs no delimiter."""

import io
from pathlib import Path
from typing import Any

import pytest

from imdbcls.data import run_format
from imdbcls.data.columns import Request
from imdbcls.data.labelled import read_labelled
from imdbcls.data.pretraining import WITH_LINES, read_unlabelled
from imdbcls.data.tables import read_table
from imdbcls.data.text_arguments import require_text_options
from imdbcls.data.unlabeled import from_file, from_stdin, request_for
from imdbcls.errors import UserError
from imdbcls.predict import parse

NO_OPTIONS: dict[str, Any] = dict.fromkeys(
    ("text_column", "id_column", "keep", "delimiter", "quoting", "encoding"), None
)
DATA = {"text_column": "Müll", "label_column": "t", "delimiter": "pipe", "quoting": "none", "encoding": "latin-1"}


def texts_in(path: Path, data: dict[str, Any], **options: Any) -> list[str | None]:
    return [item.text for item in from_file(path, request_for(path, data, **{**NO_OPTIONS, **options})).items]


@pytest.mark.parametrize(
    ("content", "texts", "log"),
    [
        (
            'Müll|t\nschön "da"|a\n'.encode("latin-1"),
            ['schön "da"'],
            "--encoding latin-1, --delimiter pipe, --quoting none",
        ),
        ('Müll,t\n"schön, da",a\n'.encode(), ["schön, da"], None),  # the file is evidently in UTF-8, with commas
        ('Müll|t\n"schön"|a\n'.encode("utf-16"), ['"schön"'], "--delimiter pipe, --quoting none"),
        ('Müll|t\n"schön"|a\n'.encode("utf-8-sig"), ['"schön"'], "--delimiter pipe, --quoting none"),
    ],
)
def test_the_format_is_that_of_the_run_unless_the_file_has_another(
    content: bytes, texts: list[str], log: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.csv").write_bytes(content)
    notes: list[str] = []
    monkeypatch.setattr(run_format.logger, "info", notes.append)
    assert texts_in(tmp_path / "new.csv", DATA) == texts
    assert [note.split("read with ")[1] for note in notes] == (
        [] if log is None else [f"{log}, like the data of the run."]
    )
    documents, _ = read_labelled(tmp_path / "new.csv", DATA, ("a", "b"))
    assert list(documents.texts) == texts


@pytest.mark.parametrize("name", ["new.csv", "new.txt", "new.jsonl"])
@pytest.mark.parametrize("late", [False, True])
def test_the_encoding_is_detected_at_the_first_character_that_is_not_ascii(
    late: bool, name: str, tmp_path: Path
) -> None:
    data, path = {"text_column": "text", "encoding": "cp1252"}, tmp_path / name
    texts = [*(["plain ascii " * 100] * 1000 if late else []), "café"]  # 1000 texts have more than one block
    rows = [f'{{"text": "{text}"}}' if name == "new.jsonl" else text for text in texts]
    content = "\n".join(["text"] * (name == "new.csv") + rows)  # the last character is the last byte of some files
    for encoding in ("utf-8", "cp1252"):
        path.write_bytes(content.encode(encoding))
        assert texts_in(path, data)[-1] == "café"
        notes = list[str]()
        assert read_unlabelled(str(path), "imdbcls.data.files.read_files", data, notes).texts[-1] == "café"
        assert any("encoding=cp1252 is ignored" in note for note in notes) == (encoding == "utf-8")
    path.write_bytes(content.encode())
    if name != "new.txt":
        table = read_table(str(path), "k", Request((("text_column", "text"),), encoding="cp1252"))
        assert any("is also valid UTF-8, so data.encoding=cp1252 may garble" in note for note in table.notes)


def test_options_come_before_the_format_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_bytes('Müll|x;t\n"ä|1";a\n'.encode("cp1252"))
    found = texts_in(path, DATA, delimiter="semicolon", encoding="cp1252", text_column=["Müll|x"])
    assert found == ["ä|1"]  # with another delimiter, the quoting is also detected
    same = {**DATA, "delimiter": "semicolon"}
    assert texts_in(path, same, delimiter="semicolon", encoding="cp1252", text_column=["Müll|x"]) == ['"ä|1"']
    assert texts_in(path, {"encoding": "no-such-encoding", "delimiter": 3}, encoding="cp1252", text_column=["t"]) == [
        "a"
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("delimiter", [None, "semicolon"])
def test_a_file_with_one_column_has_no_delimiter(delimiter: str | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"one{suffix}"
    path.write_text('text\ngood, and long; very\ta "film"\n"quoted, with ""marks"" and\nlines"\n\nbad\n')
    expected = ['good, and long; very\ta "film"', 'quoted, with "marks" and\nlines', "bad"]
    assert texts_in(path, {}, delimiter=delimiter) == expected
    assert list(read_unlabelled(str(path), "", {"delimiter": delimiter or "auto"}, []).texts) == expected


def test_text_after_a_closing_quotation_mark_in_one_column_has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text('text\n"Well," she said, "no."\n')
    with pytest.raises(UserError, match=r"line 2: .*text follows the closing quotation mark .*--quoting none reads"):
        texts_in(tmp_path / "one.csv", {})
    assert texts_in(tmp_path / "one.csv", {}, quoting="none") == ['"Well," she said, "no."']


def test_a_file_with_a_delimiter_in_its_header_still_needs_the_right_number_of_fields(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("text,label\ngood, and long,a\n")
    with pytest.raises(UserError, match=r"line 2: expected 2 fields as in the header, found 3"):
        texts_in(tmp_path / "two.csv", {})


def test_each_line_of_a_txt_file_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes('good, "so"\n\n  \ncafé; bad'.encode("latin-1"))
    data = {"text_column": ["title", "body"], "id_column": "nr", "encoding": "latin-1"}
    found = from_file(path, request_for(path, data, **NO_OPTIONS))
    assert [(item.number, item.text) for item in found.items] == [(1, 'good, "so"'), (4, "café; bad")]
    assert found.unit == "line" and found.copied == ()
    unlabelled = read_unlabelled(str(path), "imdbcls.data.files.read_files", data, [])
    assert list(unlabelled.texts) == ['good, "so"', "café; bad"]
    with pytest.raises(UserError, match=r"lines\.txt has no columns: each line is one text\. Leave out --text-column"):
        texts_in(path, data, text_column=["body"])
    with pytest.raises(UserError, match=r"line 4: byte 0xe9 .* such as --encoding cp1252"):
        texts_in(path, {})
    with pytest.raises(UserError, match=r"no supported extension .*convert it to a CSV file"):
        read_labelled(path, data, ("a", "b"))
    path.write_text("a man\ta woman\nalone\n")
    pairs = from_file(path, request_for(path, {"pair_column": "second"}, **NO_OPTIONS)).items
    assert next(pairs).document == ("a man", "a woman")
    with pytest.raises(UserError, match=r"lines\.txt, line 2: the run classifies pairs of texts"):
        next(pairs)
    path.write_text("\n")
    assert read_table(str(path), "k", Request((("text_column", "text"),)), WITH_LINES).numbers.tolist() == []  # type: ignore[attr-defined]


def stdin_of(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")


def test_stdin_has_an_encoding(tmp_path: Path) -> None:
    found = from_stdin(stdin_of("ä\nö\n".encode("cp1252")), {}, "cp1252")
    assert [item.text for item in found.items] == ["ä", "ö"]
    with pytest.raises(UserError, match=r"stdin, line 2: byte 0xf6 is not UTF-8\. Name its .*--encoding latin-1"):
        list(from_stdin(stdin_of("ok\nö\n".encode("latin-1")), DATA).items)
    with pytest.raises(UserError, match=r"stdin is not utf-16 \(.*\)\. Name another encoding with --encoding\."):
        list(from_stdin(stdin_of("ok\nö\n".encode("latin-1")), DATA, "utf-16").items)
    with pytest.raises(UserError, match=r"stdin, line 1: byte 0x81 is not CP1252\. Name another encoding"):
        list(from_stdin(stdin_of(b"\x81\n"), {}, "cp1252").items)
    require_text_options(parse(["run", "--encoding", "latin-1"]))
    for arguments, sentence in (
        (["text", "--encoding", "latin-1"], "--encoding can only be used with --file and stdin"),
        (["--encoding", "latin-99"], "--encoding=latin-99 is not an encoding that Python knows"),
        (["--delimiter", "tab"], "--delimiter can only be used with --file"),
    ):
        options = parse(["run", *arguments])
        with pytest.raises(UserError, match=sentence):
            require_text_options(options)


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ("text,label\nschön,a\n", {}, r'such as encoding="cp1252"'),
        ("text,topic\nx,a\n", {}, r"no column 'label' \(label_column\).* Use label_column=\"topic\""),
        ("text,label\n,a\nx,b\n", {}, "skip_empty=True skips such rows"),
        ("text,label\nx,z\n", {}, r'class_of_label=\{"LABEL": "CLASS"\} maps other labels'),
        ("text,label\nx,a\n", {"class_of_label": {"z": "q"}}, "class_of_label z=q: the classes of the run are a, b"),
        ("text,label\nx,a\n", {"label_column": "text"}, "label_column=text is also a column of texts"),
        ("text,label\nx,a\n", {"pair_column": "text"}, "pair_column can only be used"),
    ],
)
def test_mistakes_in_python_name_arguments_and_not_options(
    content: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=sentence) as error:
        read_labelled(tmp_path / "new.csv", {}, ("a", "b"), **options)
    assert "--" not in str(error.value)
