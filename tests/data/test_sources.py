"""Test the readers: the four forms of IMDB give the same corpus, and mistakes in the user's files are reported."""

import gzip
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.limits import HANG_SECONDS
from support.privileges import DAC_OVERRIDE, DAC_READ_SEARCH, without_capabilities
from support.runs import ROOT

from imdbcls.config.overrides import compose
from imdbcls.construction import read_texts
from imdbcls.data.documents import Corpus, Source, label_name
from imdbcls.data.files import read_files
from imdbcls.data.hub import read_hub
from imdbcls.data.imdb import read_imdb, read_unlabelled_imdb
from imdbcls.data.splits import make_corpus
from imdbcls.errors import UserError


def split(source: Source) -> Corpus:
    return make_corpus(
        source,
        validation_fraction=0.1,
        test_fraction=0.2,
        split_seed=0,
        train_limit=None,
        validation_limit=None,
        test_limit=None,
    )


def read(train: Path, *, validation: Path | None = None, test: Path | None = None, **columns: str) -> Source:
    names: dict[str, str | None] = {"id_column": None, "group_column": None, **columns}
    return read_files(
        str(train),
        None if validation is None else str(validation),
        None if test is None else str(test),
        names.pop("text_column", "text") or "",
        names.pop("label_column", "label") or "",
        names.pop("id_column"),
        names.pop("group_column"),
    )


# --- the four forms of IMDB ---


def make_reviews() -> list[tuple[str, str, int, int, str, str]]:
    """Return rows of split, label, number, stars, title id and text, with three rows for each film."""
    rows = []
    for split_name in ("train", "test"):
        for label, stars in (("neg", 2), ("pos", 9)):
            for number in range(30):
                movie = f"tt{1000 + number // 3:07d}"
                text = f"Très {label} {split_name}.<br /><br />Number {number}, a film worth {stars} of 10."
                rows.append((split_name, label, number, stars, movie, text))
    return rows


def write_folder(root: Path) -> None:
    for split_name, label, number, stars, movie, text in make_reviews():
        folder = root / split_name / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}_{stars}.txt").write_text(text, encoding="utf-8")
        with open(root / split_name / f"urls_{label}.txt", "a") as urls:
            urls.write(f"http://www.imdb.com/title/{movie}/usercomments\n")
    unsupervised = root / "train" / "unsup"
    unsupervised.mkdir()
    for number in (0, 1, 10, 2):
        (unsupervised / f"{number}_0.txt").write_text(f"unlabelled {number}")


def write_parquet(folder: Path, names: dict[str, list[str]]) -> None:
    for split_name, files in names.items():
        rows = [row for row in make_reviews() if row[0] == split_name]
        for shard, file in enumerate(files):
            part = rows[shard :: len(files)]
            table = pa.table(
                {
                    "text": [row[5] for row in part],
                    "label": [int(row[1] == "pos") for row in part],
                    "movie": [row[4] for row in part],
                    "id": [f"{row[0]}/{row[1]}/{row[2]}_{row[3]}.txt" for row in part],
                }
            )
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / file)


def test_archive_folder_and_parquet_give_the_same_corpus(tmp_path: Path) -> None:
    write_folder(tmp_path / "aclImdb")
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "aclImdb", "aclImdb")
    write_parquet(tmp_path / "plain", {"train": ["train.parquet"], "test": ["test.parquet"]})
    shards = [f"plain_text/train-0000{shard}-of-00002.parquet" for shard in range(2)]
    write_parquet(tmp_path / "hub", {"train": shards, "test": ["plain_text/test-00000-of-00001.parquet"]})

    places = ["aclImdb", "", "aclImdb_v1.tar.gz", "plain", "hub"]
    (tmp_path / "plain" / "unsupervised.parquet").write_bytes(b"never read")
    corpora = [split(read_imdb(str(tmp_path / place))) for place in places]
    for place, corpus in zip(places, corpora, strict=True):
        assert corpus.split_hash == corpora[0].split_hash, place
        assert corpus.label_names == ("negative", "positive")
        assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (54, 6, 60)
        assert corpus.train.clusters is not None and corpus.validation.clusters is not None
        assert not set(corpus.train.clusters) & set(corpus.validation.clusters), place
    first = corpora[0].test
    assert first.ids[0] == "test/neg/0_2.txt" and first.labels[0] == 0
    assert first.texts[0].startswith("Très neg test.<br /><br />Number 0")


def test_unlabelled_reviews_are_read_from_every_form(tmp_path: Path) -> None:
    write_folder(tmp_path / "aclImdb")
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "aclImdb", "aclImdb")
    expected = [f"unlabelled {number}" for number in (0, 1, 2, 10)]
    for place in ("plain", "hub"):
        write_parquet(tmp_path / place, {"train": ["train.parquet"], "test": ["test.parquet"]})
    pq.write_table(pa.table({"text": expected, "label": [-1] * 4}), tmp_path / "plain" / "unsupervised.parquet")
    for shard, texts in enumerate((expected[:2], expected[2:])):
        pq.write_table(pa.table({"text": texts}), tmp_path / "hub" / f"unsupervised-0000{shard}-of-00002.parquet")
    for place in ("aclImdb", "", "aclImdb_v1.tar.gz", "plain", "hub"):
        table = read_unlabelled_imdb(str(tmp_path / place))
        assert table is not None and list(table.columns["text"]) == expected, place
    (tmp_path / "hub" / "unsupervised-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"expected 2 file\(s\) for unsupervised, found 1"):
        read_unlabelled_imdb(str(tmp_path / "hub"))
    pq.write_table(pa.table({"review": expected}), tmp_path / "plain" / "unsupervised.parquet")
    with pytest.raises(UserError, match=r"unsupervised\.parquet has no column 'text'"):
        read_unlabelled_imdb(str(tmp_path / "plain"))
    (tmp_path / "plain" / "unsupervised.parquet").unlink()
    assert read_unlabelled_imdb(str(tmp_path / "plain")) is None


def test_archive_is_read_without_links_and_without_writing(tmp_path: Path) -> None:
    write_folder(tmp_path / "source")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "source", "aclImdb")
        evil = tarfile.TarInfo("../../evil.txt")
        evil.size = 4
        archive.addfile(evil, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("aclImdb/train/pos/999_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    shutil.rmtree(tmp_path / "source")
    source = read_imdb(str(tmp_path / "a.tar.gz"))
    assert len(source.train) == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz"]


def test_imdb_path_mistakes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    write_parquet(tmp_path / "shards", {"train": ["train-00000-of-00002.parquet"], "test": ["test.parquet"]})
    write_folder(tmp_path / "aclImdb")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "aclImdb", "aclImdb")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(tmp_path / "aclImdb" / "test" / "neg")
    write_parquet(tmp_path / "damaged", {"train": ["train.parquet"], "test": ["test.parquet"]})
    parquet = tmp_path / "damaged" / "test.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-100])
    for place, sentence in {
        "missing": "does not exist",
        "empty": "contains neither train.parquet",
        "file.txt": "must be an archive such as aclImdb_v1.tar.gz",
        "shards": r"expected 2 file\(s\) for train, found 1",
        "cut.tar.gz": "not a complete .tar.gz archive",
        "aclImdb": "contains no reviews in test/neg",
        "damaged": "test.parquet is not a complete Parquet file",
    }.items():
        with pytest.raises(UserError, match=sentence):
            read_imdb(str(tmp_path / place))


def test_an_archive_that_is_cut_off_anywhere_is_reported(tmp_path: Path) -> None:
    write_folder(tmp_path / "aclImdb")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "aclImdb", "aclImdb")
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for end in range(40, len(whole), len(whole) // 100):
        (tmp_path / "a.tar.gz").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"not a complete \.tar\.gz archive"):
            read_imdb(str(tmp_path / "a.tar.gz"))


# --- the hub ---


def test_unreachable_hub_raises_user_error_without_retries(tmp_path: Path) -> None:
    code = "from imdbcls.data.imdb import read_imdb\nread_imdb('stanfordnlp/imdb')"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("imdbcls.errors.UserError: data.path=stanfordnlp/imdb is not a folder")
    assert "the hub cannot be reached" in last
    assert "HF_HOME" in last and "data=sample" in last
    assert "Retrying" not in done.stderr


def test_hub_reader_uses_columns_splits_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {
            "body": datasets.Value("string"),
            "topic": datasets.ClassLabel(names=["world", "sports", "unused", "business"]),
        }
    )
    rows = {"body": [f"News {row}" for row in range(30)], "topic": [[0, 1, 3][row % 3] for row in range(30)]}
    table = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "news").mkdir()
    table.to_parquet(tmp_path / "news" / "train.parquet")
    table.to_parquet(tmp_path / "news" / "dev.parquet")

    def read_news(**changed: str | None) -> Source:
        arguments: dict[str, str | None] = {
            "config": None,
            "train_split": "train",
            "validation_split": None,
            "test_split": "validation",
            "text_column": "body",
            "label_column": "topic",
            "id_column": None,
            "group_column": None,
        }
        return read_hub(str(tmp_path / "news"), **(arguments | changed))  # type: ignore[arg-type]

    source = read_news()
    assert source.label_names == ("world", "sports", "business")
    assert source.train.labels.tolist() == [row % 3 for row in range(30)]
    assert source.test is not None and source.test.ids[3] == "test/000003"
    with pytest.raises(UserError, match=r"no split 'tset' \(data.test_split\); it has train, validation"):
        read_news(test_split="tset")
    with pytest.raises(UserError, match=r"no column 'text' \(data.text_column\); it has 'body', 'topic'"):
        read_news(text_column="text")


# --- the user's own files ---

ROWS = [
    {
        "text": f'Review {row}, "quoted", and\non two lines',
        "label": ["bad", "good", "mixed"][row % 3],
        "by": f"a{row // 2}",
    }
    for row in range(60)
]


def write_csv(path: Path, delimiter: str = ",") -> Path:
    import csv

    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label", "by"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_csv_tsv_jsonl_and_parquet_give_the_same_corpus(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    paths = [
        write_csv(tmp_path / "rows.csv"),
        write_csv(tmp_path / "rows.tsv", "\t"),
        write_jsonl(tmp_path / "rows.jsonl"),
        tmp_path / "rows.parquet",
    ]
    corpora = [split(read(path, group_column="by")) for path in paths]
    assert len({corpus.split_hash for corpus in corpora}) == 1
    corpus = corpora[0]
    assert corpus.label_names == ("bad", "good", "mixed")
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 60
    assert [len(set(documents.labels)) for documents in (corpus.train, corpus.validation, corpus.test)] == [3, 3, 3]
    clusters = [set(documents.clusters or ()) for documents in (corpus.train, corpus.validation, corpus.test)]
    assert not clusters[0] & clusters[1] and not clusters[0] & clusters[2] and not clusters[1] & clusters[2]
    assert any("no test split" in note for note in corpus.notes)


def test_separate_files_become_the_splits(tmp_path: Path) -> None:
    train, other = write_csv(tmp_path / "train.csv"), write_jsonl(tmp_path / "other.jsonl")
    corpus = split(read(train, validation=other, test=other))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (60, 60, 60)
    assert corpus.notes == (
        f"Read 60 rows from {train}, 60 rows from {other}, 60 rows from {other}.",
        "60 texts occur in both train and validation; all rows are kept.",
        "60 texts occur in both train and test; all rows are kept.",
    )


def test_whole_number_labels_are_in_numeric_order(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("text,label\n" + "".join(f"film {row},{row % 11}\n" for row in range(110)))
    source = read(path)
    assert source.label_names == tuple(str(stars) for stars in range(11))
    assert source.train.labels.tolist() == [row % 11 for row in range(110)]
    # The order of labels with equal values must not depend on Python's hashing.
    path.write_text("text,label\na,1\nb,01\nc,0\n")
    assert read(path).label_names == ("0", "01", "1")
    # pandas turns whole numbers into floats if a value is missing.
    floats = pa.table({"text": ["a", "b"], "label": np.array([1.0, 0.0])})
    pq.write_table(floats, tmp_path / "floats.parquet")
    assert read(tmp_path / "floats.parquet").label_names == ("0", "1")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        (" 1. ", "1"),
        (Decimal("1.00"), "1"),
        ("-0.0", "0"),
        (-2.0, "-2"),
        (True, "true"),
        ("True", "true"),
        ("FALSE", "false"),
        (10**20, "100000000000000000000"),
        # These values are not alternative spellings of a number or boolean, so they do not change.
        ("01", "01"),
        ("01.0", "01.0"),
        ("1.5", "1.5"),
        ("1.0.0", "1.0.0"),
        ("v1.0", "v1.0"),
        ("True story", "True story"),
        ("Good", "Good"),
        # Missing values.
        (None, ""),
        (math.nan, ""),
        (Decimal("nan"), ""),
        ("NaN", ""),
        ("  ", ""),
    ],
)
def test_equal_labels_have_the_same_name(value: object, name: str) -> None:
    assert label_name(value) == name


def test_labels_are_equal_across_files_and_formats(tmp_path: Path) -> None:
    """`pandas` writes 1 as 1.0 if the column has a missing value, and it writes True for JSON's true."""
    for spelling, typed, names in ((("0.0", "1.0"), (0, 1), ("0", "1")), (("False", "TRUE"), (False, True), None)):
        train, jsonl, table = tmp_path / "train.csv", tmp_path / "test.jsonl", tmp_path / "test.parquet"
        train.write_text("text,label\n" + "".join(f"film {row},{spelling[row % 2]}\n" for row in range(6)))
        rows = [{"text": f"other {row}", "label": typed[row % 2]} for row in range(4)]
        jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
        pq.write_table(pa.Table.from_pylist(rows), table)
        for test in (jsonl, table):
            source = read(train, test=test)
            assert source.label_names == (names or ("false", "true"))
            assert source.test is not None and source.test.labels.tolist() == [0, 1, 0, 1]
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("text,label\na,1.0\nb,1\nc,0\nd,0.0\n")
    assert read(mixed).train.labels.tolist() == [1, 1, 0, 0]


def test_ids_keep_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label,id\na,x,1.0\nb,y,1\nc,x,True\nd,y,true\n")
    assert list(read(path, id_column="id").train.ids) == ["1.0", "1", "True", "true"]


def test_long_fields_byte_order_marks_and_unicode_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    long = "x" * 200_000
    path.write_text(f"\ufefftext,label\n{long},a\nline\u2028separator\x85here,b\n", encoding="utf-8")
    assert list(read(path).train.texts) == [long, "line\u2028separator\x85here"]


def damage_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), path)
    path.write_bytes(path.read_bytes()[:-20])


MISTAKES: dict[str, tuple[str, str | bytes | Callable[[Path], None], str]] = {
    "empty text": (
        "d.csv",
        "text,label\na,x\n  ,y\n,y\n",
        r"d.csv, line 3 \(and 1 more row\): no text in 'text'; data.skip_empty=true skips such rows",
    ),
    "missing column": (
        "d.csv",
        "review,label\na,x\nb,y\n",
        r"has no column 'text' \(data.text_column\); it has 'review', 'label'",
    ),
    "one class": ("d.csv", "text,label\na,x\nb,x\n", "every document has the label 'x'"),
    "NaN label": ("d.csv", "text,label\na,x\nb,nan\n", "d.csv, line 3: no label in 'label'"),
    "missing label": ("d.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "d.jsonl, line 2: no label in 'label'"),
    "null text": ("d.jsonl", '{"text": null, "label": 1}\n{"text": "b", "label": 2}\n', "line 1: no text in 'text'"),
    "fraction as label": (
        "d.jsonl",
        '{"text": "a", "label": 0.5}\n',
        "line 1: label 0.5 is neither a string nor a whole number",
    ),
    "encoding": ("d.csv", b"text,label\na,x\nna\xefve,y\n", "line 3: byte 0xef at offset 17 is not UTF-8"),
    "encoding after a mark": (
        "d.csv",
        b"\xef\xbb\xbftext,label\n\xff,y\n",
        "line 2: byte 0xff at offset 14 is not UTF-8",
    ),
    "broken row": (
        "d.csv",
        "text,label\na,x\nb,with comma,y\nc,y\n",
        "line 3: expected 2 fields as in the header, found 3",
    ),
    "open quote": (
        "d.csv",
        'text,label\na,x\n"b,y\nc,y\n',
        "d.csv, line 3: this row cannot be read as CSV: .* unclosed quotation mark",
    ),
    "empty file": ("d.csv", "", "is empty; the first line must name the columns"),
    "no rows": ("d.csv", "text,label\n", "contains no documents"),
    "column twice": (
        "d.csv",
        "text,label,text\na,x,b\n",
        r"d.csv, line 1: column 'text' \(data.text_column\) occurs 2 times in 'text', 'label', 'text'",
    ),
    "key twice": (
        "d.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": 2, "text": "c"}\n',
        r"d.jsonl, line 2: key 'text' \(data.text_column\) occurs twice",
    ),
    "broken JSON": ("d.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "d.jsonl, line 2 is not valid JSON"),
    "JSON list": ("d.jsonl", "[1]\n", "line 1: expected a JSON object, found list"),
    "cut-off Parquet": ("d.parquet", damage_parquet, "d.parquet is not a complete Parquet file"),
    "JSON over several lines": ("d.jsonl", '{\n"text": "a"}', "line 1 is not valid JSON .* has one object per line"),
    "no columns": (
        "d.jsonl",
        "{}\n{}\n",
        r"d.jsonl has no columns 'text' \(data.text_column\) and 'label' \(data.label_column\); it has no named",
    ),
    "other extension": ("d.xlsx", "", r"has no supported extension \(.csv, .tsv, .jsonl.* save the sheet as CSV"),
    "a compressed file": ("d.csv.gz", "", r"has no supported extension \(.csv.*; unpack it first \(gunzip\)"),
    "compressed and named csv": ("d.csv", gzip.compress(b"text,label\n"), "The file looks like gzip. Unpack it first"),
    "half an emoji": (
        "d.jsonl",
        '{"text": "a", "label": 2}\n{"text": "so good \\ud83d", "label": 1}\n',
        "d.jsonl, line 2: 'text' contains half of a character such as an emoji",
    ),
    "half an emoji as label": (
        "d.jsonl",
        '{"text": "a", "label": "\\ud83d"}\n',
        "line 1: 'label' contains half of a character such as an emoji",
    ),
    "quote in a text": ("d.csv", 'text,label\n"a "b" c",x\n', r"line 2: .* \(write a quotation mark inside a field as"),
    "text that is a list": (
        "d.jsonl",
        '{"text": ["a"], "label": 1}\n{"text": "b", "label": 2}\n',
        "'text' must be a string, not a value of type list; join its parts into one string",
    ),
    "several labels": (
        "d.jsonl",
        '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n',
        "line 1: label .* is neither a string nor a whole number; a document has exactly one label. For several",
    ),
    "fractions in text form": ("d.csv", "text,label\na,1.0\nb,3.7\n", "d.csv, line 3: label '3.7' is a fraction"),
    "a label for each document": (
        "d.csv",
        "text,label\n" + "".join(f"text {row},name {row % 30}\n" for row in range(40)),
        "'label' has 30 different values in 40 documents, such as 'name 0' in line 2; data.label_column seems to name",
    ),
    "over a thousand labels": (
        "d.csv",
        "text,label\n" + "".join(f"text {row},name {row % 1001}\n" for row in range(3003)),
        "'label' has 1,001 different values",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_file_is_reported(mistake: str, tmp_path: Path) -> None:
    name, content, sentence = MISTAKES[mistake]
    if callable(content):
        content(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=sentence) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", ")"))


def test_an_id_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"text,label,url\na,x,{'u' * 200}\nb,y,{'v' * 201}\n")
    with pytest.raises(
        UserError, match=r"d\.csv, line 3: the id in 'url' \(data.id_column\) has more than 200 characters"
    ):
        read(path, id_column="url")


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv")
    path.chmod(0)
    denied = pytest.raises(UserError, match=r"d\.csv cannot be read: Permission denied")
    with (
        without_capabilities(DAC_OVERRIDE, DAC_READ_SEARCH),
        denied,
    ):  # capabilities with which root may read everything
        read(path)


def test_mistakes_across_files_are_reported(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv")
    other = tmp_path / "test.csv"
    other.write_text("text,label,id\na,good,1\nb,ugly,1\n")
    with pytest.raises(
        UserError, match=r"test.csv, line 3: label 'ugly' is not one of the training classes: bad, good"
    ):
        read(train, test=other)
    with pytest.raises(UserError, match=r"data.test=.*nowhere.csv does not exist"):
        read(train, test=tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"test.csv, line 3: id '1' already occurs in line 2; ids must be unique"):
        read(other, id_column="id")


def test_a_column_for_two_settings_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv")
    for columns in ({"label_column": "text"}, {"id_column": "label"}, {"group_column": "label"}):
        with pytest.raises(UserError, match=r"data\.\w+_column and data\.\w+_column are both '\w+'; they must be diff"):
            read(path, **columns)


def test_doubtful_labels_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    labels = ["-1", "Good", "good"]
    path.write_text("text,label\n" + "".join(f"t{row // 2},{labels[row % 3]}\n" for row in range(60)))
    notes = split(read(path)).notes
    for sentence in (
        f"{path}, line 2: label -1 is treated as a class; if it marks documents without a label, remove their rows.",
        f"{path}: labels 'Good' (line 3) and 'good' (line 4) differ only in case; they are treated as two classes.",
        "30 texts in train have different labels in different rows; all rows are kept.",
    ):
        assert sentence in notes
    test = tmp_path / "test.csv"
    test.write_text("text,label\nu,-1\n")
    train = tmp_path / "train.csv"
    train.write_text("text,label\na,0\nb,1\n")
    with pytest.raises(UserError, match="label '-1' is not one of the training classes: 0, 1; -1 usually marks"):
        read(train, test=test)


def test_all_rows_without_a_text_or_label_are_counted_together(tmp_path: Path) -> None:
    """Report the rows of both columns and both files at once, as many as `data.skip_empty=true` would skip."""
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\nfilm,x\n,y\nplay,y\nopera,\n , \nsong,x\n")
    test.write_text("text,label\nfilm,x\nplay,\n")
    with pytest.raises(UserError) as found:
        read_files(str(train), None, str(test), "text", "label", None, None)
    hint = "; data.skip_empty=true skips such rows."
    assert str(found.value).splitlines() == [
        f"{train}, line 3 (and 1 more row): no text in 'text'{hint}",
        f"{train}, line 5 (and 1 more row): no label in 'label'{hint}",
        f"{test}, line 3: no label in 'label'{hint}",
    ]


def test_skip_empty_skips_rows_without_a_text_or_label(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\nfilm,x\n,y\nplay,y\nopera,\n , \nsong,x\n")
    source = read_files(str(path), None, None, "text", "label", None, None, skip_empty=True)
    assert list(source.train.texts) == ["film", "play", "song"] and source.label_names == ("x", "y")
    assert list(source.train.ids) == [
        "train/000000",
        "train/000002",
        "train/000005",
    ]  # the numbers are rows of the file
    assert source.notes == (
        f"Read 6 rows from {path}.",
        f"{path}: 3 of 6 rows are skipped: 2 with no text in 'text', 1 with no label in 'label' "
        "(data.skip_empty=true).",
    )
    path.write_text("text,label\n,x\na,\n")
    with pytest.raises(UserError, match="has no row with both a text and a label"):
        read_files(str(path), None, None, "text", "label", None, None, skip_empty=True)


def test_clusters_too_large_to_split_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label,by\n" + "".join(f"t{row},{row % 2},one\n" for row in range(40)))
    with pytest.raises(UserError, match=r"data.test_fraction=0.2 leaves .* form 1 cluster, .*data.group_column"):
        split(read(path, group_column="by"))


# --- texts for the comparison page ---


def test_read_texts_reads_only_the_documents_of_a_run(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv")
    config = compose(["backbone=tiny", "data=files", f"data.train={path}"]).plain()
    data, source = config["data"], config["data"]["source"]
    corpus = split(read(path))
    test = corpus.test

    def texts(**changes: Any) -> dict[str, str]:
        return read_texts({**config, "data": data | changes}, corpus.split_hash)

    assert texts() == dict(zip(test.ids, test.texts, strict=True))
    # The head's package need not be installed, because only the documents are read.
    foreign = {**config, "head": {"_target_": "my_heads.Head", "name": "mine"}, "plugins": ["my_heads"]}
    assert read_texts(foreign, corpus.split_hash) == texts()
    for target in ("os.system", "imdbcls.data.evil.read_evil", "imdbcls.data.card.read_card", ["os.system"], None):
        with pytest.raises(UserError, match="is not a reader of imdbcls"):
            texts(source=source | {"_target_": target})
    with pytest.raises(UserError, match="has no argument command"):
        texts(source=source | {"command": "true"})
    with pytest.raises(UserError, match="the split hash is different"):
        texts(split_seed=1)
    for damaged in ({}, {"data": None}, {"data": {"source": 1}}):
        with pytest.raises(UserError):
            read_texts(damaged, corpus.split_hash)
