"""Texts in a memory-mapped file form the same sequence as texts in a list, and give the same corpus and errors."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from imdbcls.data.columns import Request
from imdbcls.data.documents import Corpus
from imdbcls.data.files import read_files
from imdbcls.data.splits import make_corpus
from imdbcls.data.tables import rows_of
from imdbcls.data.text_column import MappedTexts, TextWriter, take
from imdbcls.errors import UserError
from imdbcls.runtime.atomic import STALE_SECONDS

VALUES = [*(f"text {row} größer" for row in range(600)), None, 5, "half \ud83d", "", "last"]


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write columns of more than 1,000 characters (ids, clusters: 100) to files. Return the folder of the files."""
    monkeypatch.setattr("imdbcls.data.text_column.MAX_CHARACTERS", 1000)
    monkeypatch.setattr("imdbcls.data.text_column.MAX_NAME_CHARACTERS", 100)
    monkeypatch.setattr("imdbcls.data.text_column.BATCH_CHARACTERS", 500)
    monkeypatch.setenv("IMDBCLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "texts"


def test_mapped_texts_equal_a_list(small_files: Path) -> None:
    writer = TextWriter()
    writer.extend(VALUES)
    texts = writer.finish()
    assert isinstance(texts, MappedTexts) and list(small_files.iterdir()) == []
    assert len(texts) == len(VALUES) and list(texts) == VALUES == [texts[row] for row in range(len(VALUES))]
    assert texts[-1] == "last" and list(texts[3:7]) == VALUES[3:7]
    with pytest.raises(IndexError):
        texts[len(VALUES)]
    rows = [602, 3, 3, 600, 599]
    chosen = take(texts, rows)
    assert isinstance(chosen, MappedTexts) and list(chosen) == [VALUES[row] for row in rows]
    assert list(take(chosen, [4, 0])) == [VALUES[599], VALUES[602]] and chosen[-1] == VALUES[599]


def test_short_columns_stay_in_memory() -> None:
    writer = TextWriter()
    writer.extend(VALUES)
    assert writer.finish() == VALUES


def test_unfinished_file_is_removed(small_files: Path) -> None:
    writer = TextWriter()
    writer.extend(VALUES)
    assert len(list(small_files.iterdir())) == 1
    del writer
    assert list(small_files.iterdir()) == []


def test_file_of_a_killed_process_is_removed(small_files: Path) -> None:
    small_files.mkdir(parents=True)
    killed, running = small_files / "killed.arrow", small_files / "running.arrow"
    for path in (killed, running):
        path.touch()
    old = time.time() - STALE_SECONDS - 60
    os.utime(killed, (old, old))
    writer = TextWriter()
    writer.extend(VALUES)
    writer.finish()
    assert list(small_files.iterdir()) == [running]


def test_file_that_cannot_be_written_is_reported(small_files: Path) -> None:
    small_files.parent.mkdir()
    small_files.write_text("not a folder")
    with pytest.raises(UserError, match=r"written to a file in .*texts, but this failed .* Set IMDBCLS_CACHE"):
        TextWriter().extend(VALUES)


def corpus_of(path: Path, id_column: str | None = None, **options: Any) -> Corpus:
    source = read_files(str(path), None, None, "text", "label", id_column, "film", **options)
    limits = {"train_limit": 150, "validation_limit": None, "test_limit": None}
    return make_corpus(source, validation_fraction=0.2, test_fraction=0.2, split_seed=0, **limits)


@pytest.mark.parametrize("id_column", [None, "id"])
@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_corpus_of_mapped_texts_is_the_same(
    extension: str, id_column: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The ids differ in length, and their characters are ordered by code point: `z`, `é`, `𝄞`."""
    rows = [
        {
            "text": f"film {row % 90} {row % 250}  seen",
            "label": row % 3,
            "film": f"f{row % 90}",
            "id": f"{'𝄞zé'[row % 3]}{row}",
        }
        for row in range(300)
    ]
    rows[7]["text"] = " "
    path = tmp_path / f"rows.{extension}"
    if extension == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_memory = corpus_of(path, id_column, skip_empty=True)
    request.getfixturevalue("small_files")
    mapped = corpus_of(path, id_column, skip_empty=True)
    assert mapped.split_hash == in_memory.split_hash and mapped.notes == in_memory.notes
    for name, documents in mapped.splits.items():
        expected = in_memory.splits[name]
        assert isinstance(documents.texts, MappedTexts) and isinstance(expected.texts, list)
        assert isinstance(documents.ids, MappedTexts) and isinstance(documents.clusters, MappedTexts)
        assert (list(documents.ids), list(documents.texts)) == (expected.ids, expected.texts)
        assert list(documents.clusters) == expected.clusters
    with pytest.raises(UserError, match=r"(line|row) 8: no text in 'text'; data\.skip_empty=true skips such rows"):
        corpus_of(path)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_repeated_id_is_refused(is_mapped: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if is_mapped:
        request.getfixturevalue("small_files")
    rows = [{"text": f"film {row} seen", "label": row % 2, "id": f"id {row % 250}", "film": row} for row in range(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"line 251: id 'id 0' already occurs in line 1; ids must be unique"):
        corpus_of(path, "id")


@pytest.mark.parametrize("is_mapped", [False, True])
def test_text_that_is_a_number_is_refused(is_mapped: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if is_mapped:
        request.getfixturevalue("small_files")
    rows: list[dict[str, object]] = [{"text": f"film {row} seen", "label": row % 2} for row in range(300)]
    rows[200]["text"] = 404
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for skip_empty in (False, True):
        with pytest.raises(UserError, match=r"line 201: 'text' must be a string, not a value of type int"):
            read_files(str(path), None, None, "text", "label", None, None, skip_empty=skip_empty)


def test_parquet_file_is_read_one_row_group_at_a_time(tmp_path: Path) -> None:
    """Reading all row groups at once would keep the complete file in memory."""
    path = tmp_path / "rows.parquet"
    texts = [random.Random(row).randbytes(500).hex() for row in range(20_000)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=500, compression="none")
    before = pa.total_allocated_bytes()
    found = rows_of(path, Request((("text_column", "text"),)))
    most, read = 0, []
    for _, row in found.rows:
        read.append(row["text"])
        most = max(most, pa.total_allocated_bytes() - before)
    assert read == texts and most < path.stat().st_size / 5
