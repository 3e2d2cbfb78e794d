"""Read the user's own files: encodings, several files, nested keys and several text columns."""

import codecs
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imdbcls.config.overrides import compose
from imdbcls.data.columns import Request
from imdbcls.data.documents import Source
from imdbcls.data.files import read_files
from imdbcls.data.pretraining import WITH_LINES
from imdbcls.data.tables import last_number, read_table, require_columns
from imdbcls.data.unlabeled import from_file, request_for
from imdbcls.errors import UserError
from imdbcls.runs.data_origin import describe_source, marker_of, read_from
from imdbcls.runs.identity import config_hash, group_hash
from imdbcls.runtime.file_patterns import matching_files

ROWS = [(f"Café № {row} «schön»", f"Title {row}", ["ja", "nein"][row % 2]) for row in range(24)]


def write_csv(path: Path, rows: list[tuple[str, str, str]], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([("text", "title", "label"), *rows])
    return path


def read(train: Any, text_column: Any = "text", **options: Any) -> Source:
    return read_files(
        train, options.pop("validation", None), options.pop("test", None), text_column, "label", None, None, **options
    )


# --- encodings ---


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("utf-8", "auto"),
        ("utf-8-sig", "auto"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "auto"),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "auto"),
        ("gb18030", "gb18030"),
    ],
)
def test_encodings(written: str, given: str, tmp_path: Path) -> None:
    source = read(str(write_csv(tmp_path / "a.csv", ROWS, written, ";")), encoding=given)
    assert list(source.train.texts) == [text for text, _, _ in ROWS]
    lines = "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, _, label in ROWS)
    (tmp_path / "a.jsonl").write_bytes(lines.encode(written))
    assert list(read(str(tmp_path / "a.jsonl"), encoding=given).train.texts) == [text for text, _, _ in ROWS]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso-8859-15"])
def test_a_one_byte_encoding(encoding: str, tmp_path: Path) -> None:
    rows = [(f'Naïve Ärger {row}, "ça"\nva', "t", ["é", "ü"][row % 2]) for row in range(8)]
    path = write_csv(tmp_path / "a.csv", rows, encoding)
    source = read(str(path), encoding=encoding)
    assert list(source.train.texts) == [text for text, _, _ in rows] and source.label_names == ("é", "ü")
    assert not any("UTF-8" in note for note in source.notes)
    request = request_for(path, {}, **{**dict.fromkeys(OPTIONS), "encoding": encoding})
    assert [item.text for item in from_file(path, request).items] == [text for text, _, _ in rows]


OPTIONS = ("text_column", "id_column", "keep", "delimiter", "quoting", "encoding")


def test_a_wrong_encoding_is_one_sentence_with_file_and_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("plain", "t", "x"), ("naïve", "t", "y")], "latin-1")
    with pytest.raises(
        UserError, match=r"a\.csv, line 3: byte 0xef .* not UTF-8\. .* such as data\.encoding=cp1252\.$"
    ):
        read(str(path))
    marked = tmp_path / "marked.csv"
    marked.write_bytes(codecs.BOM_UTF8 + b"text,label\na,x\nb,y\n")
    with pytest.raises(
        UserError, match=r"marked\.csv begins with the byte order mark of UTF-8, so its encoding is not"
    ):
        read(str(marked), encoding="latin-1")
    for order, other, mark in (("le", "be", codecs.BOM_UTF16_LE), ("be", "le", codecs.BOM_UTF16_BE)):
        marked.write_bytes(mark + "text,label\na,x\nb,y\n".encode(f"utf-16-{order}"))
        sentence = (
            rf"mark of UTF-16-{order.upper()}, so its encoding is not utf-16-{other}\. .* data\.encoding=utf-16\.$"
        )
        with pytest.raises(UserError, match=sentence):
            read(str(marked), encoding=f"utf-16-{other}")
        assert list(read(str(marked), encoding=f"utf-16-{order}").train.texts) == ["a", "b"]
    for name in ("latin-99", "hex", "a\0b"):
        with pytest.raises(UserError, match=r"data\.encoding=.* is not an encoding that Python knows"):
            read(str(marked), encoding=name)
    broken = tmp_path / "broken.csv"
    broken.write_bytes("text,label\na,x\nb".encode("utf-16") + b"\x00\xdc" + ",y\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"broken\.csv, line 3: byte 0x00 at offset 34 is not utf-16\. Use another"):
        read(str(broken), encoding="utf-16")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "txt"])
def test_utf_16_without_a_byte_order_mark_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / f"a.{suffix}", [("naïve", "t", "y")], "latin-1")
    request = Request((("text_column", "text"),), encoding="utf-16")
    match = rf"a\.{suffix} is not utf-16 \(.*\)\. Use another data\.encoding, such as data\.encoding=cp1252, or save"
    with pytest.raises(UserError, match=match):
        read_table(str(path), "data.train", request, WITH_LINES)
    if suffix in ("csv", "tsv"):  # the other formats report this only when rows are read
        with pytest.raises(UserError, match=match):
            require_columns(path, request)


def test_signs_of_a_wrong_one_byte_encoding_are_noted(tmp_path: Path) -> None:
    source = read(str(write_csv(tmp_path / "a.csv", ROWS)), encoding="latin-1")
    assert any("is also valid UTF-8" in note for note in source.notes)
    path = write_csv(tmp_path / "b.csv", [("“hm”", "t", "a"), ("b", "t", "b")], "cp1252")
    assert any("use data.encoding=cp1252" in note for note in read(str(path), encoding="latin-1").notes)
    utf16 = write_csv(tmp_path / "c.csv", ROWS, "utf-16")
    assert f"{utf16}: the encoding is UTF-16, according to the byte order mark." in read(str(utf16)).notes


# --- several files ---


def test_several_files_are_one_table(tmp_path: Path) -> None:
    whole = read(str(write_csv(tmp_path / "all.csv", ROWS)))
    parts = [write_csv(tmp_path / f"part-{index}.csv", ROWS[8 * index : 8 * index + 8]) for index in range(3)]
    (tmp_path / "part-1.csv").unlink()
    table = [{"text": text, "title": title, "label": label} for text, title, label in ROWS[8:16]]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "part-1.parquet")
    for train in (str(tmp_path / "part-*"), [str(parts[0]), str(tmp_path / "part-1.parquet"), str(parts[2])]):
        source = read(train)
        assert list(source.train.texts) == list(whole.train.texts) and list(source.train.ids) == list(whole.train.ids)
        assert source.notes == (f"Read 24 rows from {parts[0]} and 2 more.",)


def test_messages_name_the_file_of_a_row(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", [("x", "t", "a"), ("", "u", "b"), ("y", "v", "b")])
    second = write_csv(tmp_path / "b.csv", [("x", "t", "a"), ("z", "t", "")])
    files = [str(first), str(second)]
    with pytest.raises(UserError) as found:
        read(files)
    no_text, no_label = str(found.value).splitlines()
    assert no_text.startswith(f"{first}, line 3: no text in 'text'")
    assert no_label.startswith(f"{second}, line 3: no label in 'label'")
    with pytest.raises(UserError, match=r"^\S*a\.csv, line 3: no text in 'text'"):
        read([str(write_csv(tmp_path / "c.csv", [("x", "t", "c")])), str(first)])
    source = read(files, skip_empty=True)
    assert list(source.train.ids) == ["train/000000", "train/000002", "train/000003"]
    with pytest.raises(UserError, match=r"b\.csv, line 2: id 't' already occurs in \S*a\.csv, line 2"):
        read_files(files, None, None, "text", "label", "title", None, skip_empty=True)


def test_mistakes_in_lists_and_patterns(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "a.csv", ROWS))
    for train, sentence in (
        (str(tmp_path / "b-*.csv"), r"data\.train=\S*b-\*\.csv matches no file\."),
        ([], r"data\.train=\[\] names no file\."),
        ([path, str(tmp_path / "*.csv")], r"data\.train names \S*a\.csv twice\."),
        ([path, str(tmp_path / "c.csv")], r"c\.csv does not exist"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(train)
    other = str(write_csv(tmp_path / "b.csv", ROWS))
    with pytest.raises(UserError, match=r"data\.test=\S*a\.csv is the same file as data\.train"):
        compose(["backbone=tiny", "data=files", f"data.train=[{path},{other}]", f"data.test={tmp_path}/a*"])


def test_a_pattern_does_not_search_subfolders(tmp_path: Path) -> None:
    for folder in ("a", "b", "b/c"):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "part.csv", ROWS)
    one_level = [f"{tmp_path}/a/part.csv", f"{tmp_path}/b/part.csv"]
    assert matching_files(f"{tmp_path}/*/part.csv") == matching_files(f"{tmp_path}/**/part.csv") == one_level
    assert matching_files(f"{tmp_path}/[b]/?/**") == [f"{tmp_path}/b/c/part.csv"]


def test_the_hash_covers_all_files_and_not_how_they_are_named(tmp_path: Path) -> None:
    for index in range(2):
        write_csv(tmp_path / f"part-{index}.csv", ROWS[12 * index : 12 * index + 12])

    def hash_of(train: str) -> str:
        return config_hash(compose(["backbone=tiny", "data=files", f"data.train={train}"]))

    pattern, listed = f"{tmp_path}/part-*.csv", f"[{tmp_path}/part-0.csv,{tmp_path}/part-1.csv]"
    assert hash_of(pattern) == hash_of(listed)
    assert hash_of(listed) != hash_of(f"[{tmp_path}/part-1.csv,{tmp_path}/part-0.csv]")
    assert hash_of(f"[{tmp_path}/part-0.csv]") == hash_of(f"{tmp_path}/part-0.csv") != hash_of(listed)
    before = hash_of(pattern)
    write_csv(tmp_path / "part-1.csv", ROWS[13:])
    assert hash_of(pattern) != before


def test_new_keys_do_not_change_the_hashes_of_earlier_runs(tmp_path: Path) -> None:
    config = compose(["backbone=tiny", "data=files", f"data.train={write_csv(tmp_path / 'a.csv', ROWS)}"])
    plain = config.plain()
    for key in ("encoding", "text_separator", "pair_column"):
        del plain["data"][key], plain["data"]["source"][key]
    earlier = type(config).model_validate(plain)
    assert (config_hash(config), group_hash(config)) == (config_hash(earlier), group_hash(earlier))
    assert config_hash(config.with_changes(data={"encoding": "latin-1"})) != config_hash(config)


def test_the_source_of_several_files_can_be_trusted_and_moved(tmp_path: Path) -> None:
    for index in range(2):
        write_csv(tmp_path / f"part-{index}.csv", ROWS)
    source = {"_target_": "imdbcls.data.files.read_files", "train": f"{tmp_path}/part-*.csv", "test": None}
    listed = {**source, "train": [f"{tmp_path}/part-0.csv", f"{tmp_path}/part-1.csv"]}
    assert marker_of(source) == marker_of(listed) != marker_of({**source, "train": f"{tmp_path}/part-0.csv"})
    assert read_from(source, str(tmp_path)) == source
    assert read_from({**listed, "train": ["x/part-0.csv", "x/part-1.csv"]}, str(tmp_path)) == listed
    assert describe_source({**source, "train": ["a.csv", "b.csv"]}) == "data.train=[a.csv,b.csv]"


# --- nested keys ---


def test_nested_keys_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"review": {"body": {"en": "nested"}, "stars": 1}, "meta": {"id": "a"}},
        {"review": {"body": {"en": "also"}, "stars": 2}, "meta": {"id": "b"}, "review.body.en": "literal"},
        {"review": {"body.en": "half", "stars": 2}, "meta": {"id": "c"}},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("review.body.en", "review.stars", "meta.id", None)
    source = read_files(str(path), None, None, *columns)
    assert list(source.train.texts) == ["nested", "literal", "half"] and list(source.train.ids) == ["a", "b", "c"]
    assert source.label_names == ("1", "2")
    request = request_for(path, {"text_column": "review.body.en", "id_column": "meta.id"}, **dict.fromkeys(OPTIONS))
    items = list(from_file(path, request).items)
    assert [(item.text, item.copied) for item in items[:2]] == [("nested", {"id": "a"}), ("literal", {"id": "b"})]
    with pytest.raises(
        UserError, match=r"no columns 'review\.text' .*'review\.body', 'review\.stars', 'review\.body\.en'"
    ) as caught:
        compose(["backbone=tiny", "data=files", f"data.train={path}", "data.text_column=review.text"])
    assert "Use data.text_column=review.body.en" in str(caught.value)  # `review` and `review.body` are objects


# --- several text columns ---


def test_several_text_columns_are_joined(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "a.csv", [("body", "head", "a"), ("", "only", "b"), ("x", " ", "b")]))
    assert list(read(path, ["title", "text"]).train.texts) == ["head body", "only", "x"]
    assert list(read(path, ["title", "text"], text_separator="\n").train.texts) == ["head\nbody", "only", "x"]
    request = request_for(
        Path(path), {"text_column": ["title", "text"], "text_separator": " | "}, **dict.fromkeys(OPTIONS)
    )
    assert [item.text for item in from_file(Path(path), request).items] == ["head | body", "only", "x"]
    request = request_for(Path(path), {}, **{**dict.fromkeys(OPTIONS), "text_column": ["text", "title"]})
    assert [item.text for item in from_file(Path(path), request).items] == ["body head", "only", "x"]
    (tmp_path / "b.jsonl").write_text('{"title": 1984, "text": "a", "label": 1}\n')
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: 'title' must be a string, not a value of type int"):
        read(str(tmp_path / "b.jsonl"), ["title", "text"])
    blank = str(write_csv(tmp_path / "c.csv", [("", " ", "a"), ("x", "y", "b")]))
    with pytest.raises(UserError, match=r"c\.csv, line 2: no text in 'title \+ text'"):
        read(blank, ["title", "text"])


@pytest.mark.parametrize("setting", ["text_column", "pair_column"])
def test_a_list_without_columns_is_refused(setting: str, tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "a.csv", ROWS))
    with pytest.raises(UserError, match=rf"data\.{setting}=\[\] names no column\."):
        read(path, **{setting: []})


def test_all_missing_columns_of_a_list_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    with pytest.raises(
        UserError, match=r"no columns 'headline' \(data\.text_column\) and 'body' \(data\.text_column\)"
    ):
        compose(["backbone=tiny", "data=files", f"data.train={path}", "data.text_column=[headline,body]"])


def test_a_last_line_without_a_line_feed_counts(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    for content, number in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)):
        path.write_bytes(content)
        assert last_number(path) == number
