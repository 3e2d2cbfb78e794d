"""The documents of pretraining: train and unlabelled documents, never the text of a held-out document."""

from pathlib import Path

import numpy as np
import pytest

from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.pretraining import pretraining_corpus, read_unlabelled, unlabelled_documents
from imdbcls.errors import UserError

FILES = "imdbcls.data.files.read_files"


def documents(name: str, texts: list[str]) -> Documents:
    return Documents([f"{name}/{row}" for row in range(len(texts))], texts, np.arange(len(texts)) % 2)


def make(unlabelled: list[str], **limits: float | None) -> Corpus:
    splits = {
        "train": documents("train", ["a good film", "a bad film", "the same", "seen  in test"]),
        "validation": documents("validation", ["held out", "held out too"]),
        "test": documents("test", ["seen in test", "another test"]),
    }
    labelled = Corpus(**splits, label_names=("bad", "good"), split_hash="", notes=("unused",))
    given = {"validation_limit": None, "unlabelled_limit": None, **limits}
    return pretraining_corpus(labelled, unlabelled_documents(unlabelled), split_seed=0, notes=("read",), **given)


def test_held_out_and_repeated_texts_are_left_out_whatever_their_white_space() -> None:
    corpus = make(["new", "the\nsame", " another test ", "held out", "new "], validation_limit=1)
    assert list(corpus.train.texts) == ["a good film", "a bad film", "the same", "new"]
    assert corpus.train.ids[-1] == "unlabelled/000000" and len(set(corpus.train.ids)) == 4
    assert len(corpus.validation) == 1 and len(corpus.test) == 0
    assert corpus.notes == (
        "read",
        "2 documents are repeated, and each text is used only once.",
        "2 documents are left out, because the same text is in test.",
        "1 document is left out, because the same text is in validation.",
    )
    assert corpus.split_hash != make(["new"]).split_hash


def test_limits_choose_nested_subsets() -> None:
    unlabelled = [f"number {row}" for row in range(40)]
    few, more = (set(make(unlabelled, unlabelled_limit=limit).train.texts) for limit in (4, 0.5))
    assert len(few) == 3 + 4 and len(more) == 3 + 20 and few < more


def test_nothing_to_learn_from_is_a_mistake() -> None:
    with pytest.raises(UserError, match="No document is left for pretraining"):
        pretraining_corpus(
            Corpus(*[documents("x", ["same"])] * 3, ("a", "b"), "", ()),
            unlabelled_documents(["same"]),
            validation_limit=None,
            unlabelled_limit=None,
            split_seed=0,
            notes=(),
        )


@pytest.mark.parametrize(("suffix", "encoding"), [("txt", "latin-1"), ("csv", "latin-1"), ("csv", "utf-16")])
def test_an_unlabelled_file_that_is_evidently_utf_8_is_read_as_utf_8(
    suffix: str, encoding: str, tmp_path: Path
) -> None:
    same, other, notes = tmp_path / f"same.{suffix}", tmp_path / f"other.{suffix}", list[str]()
    header = "text\n" if suffix == "csv" else ""
    same.write_text(f"{header}naïve\n", encoding=encoding)
    other.write_text(f"{header}schön\n", encoding="utf-8")
    found = read_unlabelled([str(same), str(other)], FILES, {"encoding": encoding}, notes)
    assert list(found.texts) == ["naïve", "schön"]
    assert [note for note in notes if "UTF-8" in note] == [
        f"{other}: data.encoding={encoding} is ignored, because the file is UTF-8."
    ]


def test_unlabelled_files_have_the_text_column_of_the_data(tmp_path: Path) -> None:
    file, notes = tmp_path / "more.csv", list[str]()
    file.write_text('review,stars\n"one, two",5\n,3\nthree,1\n')
    found = read_unlabelled(str(file), FILES, {"text_column": "review"}, notes)
    assert list(found.texts) == ["one, two", "three"]
    assert notes == [f"{file}: 1 row without a text is skipped."]
    with pytest.raises(UserError, match=r"more.csv has no column 'text' \(data.text_column\)"):
        read_unlabelled(str(file), FILES, {}, [])
    file.write_text("review,stars\n,3\n")
    with pytest.raises(UserError, match="has no row with a text"):
        read_unlabelled(str(file), FILES, {"text_column": "review"}, [])


def test_only_imdb_has_unlabelled_documents_of_its_own() -> None:
    for unlabelled in ("auto", None):
        assert len(read_unlabelled(unlabelled, FILES, {"text_column": "text"}, [])) == 0
