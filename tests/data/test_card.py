"""Test that the data card shows what a run reads, splits and truncates."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.processes import run_module
from support.runs import ROOT, SHARED
from support.tables import write

from imdbcls.build import build_data_card
from imdbcls.config.overrides import compose
from imdbcls.construction import build_corpus
from imdbcls.data.card import card_text, histogram
from imdbcls.sections import build_tokenizer

IMDB, ROBERTA = SHARED / "imdb", SHARED / "roberta-base"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_module(ROOT, "imdbcls.data", *arguments, environment=dict(os.environ))


@pytest.fixture
def own_data(tmp_path: Path) -> list[str]:
    """Return overrides for a dataset of three classes.

    Row n of train has 10 + n words. Two texts are repeated in train, and one of them also occurs in test.
    """
    words = [" ".join(["film"] * (10 + row)) for row in range(60)]
    rows = [(text, "abc"[row % 3], f"author {row % 20}") for row, text in enumerate(words)]
    train = write(tmp_path / "train.csv", [*rows, (words[0], "a", "author 0"), (words[3], "a", "author 3")])
    test = write(tmp_path / "test.csv", [(words[0] + " \n", "a", "x"), ("the end", "b", "y"), ("a film", "c", "z")])
    return [
        "data=files",
        f"data.train={train}",
        f"data.test={test}",
        "data.group_column=author",
        "data.validation_fraction=0.25",
        f"data.cache_dir={tmp_path / 'cache'}",
        "backbone=tiny",
    ]


def test_the_card_describes_the_corpus(own_data: list[str]) -> None:
    card = build_data_card(compose([*own_data, "max_length=40"]))
    train, validation, test = card.splits.values()
    assert card.label_names == ("a", "b", "c")
    assert train.num_documents + validation.num_documents == 62 and test.num_documents == 3
    assert sum(train.class_counts) == train.num_documents and test.class_counts == (1, 1, 1)
    assert train.num_clusters is not None and validation.num_clusters is not None
    assert train.num_clusters + validation.num_clusters == 20 and test.num_clusters == 3
    assert train.num_repeated + validation.num_repeated == 2 and test.num_repeated == 0
    assert validation.num_in_train == 0  # carving a split keeps duplicates together
    # Lengths include [CLS] and [SEP]: 10 + n words give 12 + n tokens.
    all_lengths = np.sort(np.concatenate([train.lengths, validation.lengths]))
    assert all_lengths.tolist() == sorted([*range(12, 72), 12, 15])
    over = train.share_over(40) * train.num_documents + validation.share_over(40) * validation.num_documents
    assert round(over) == sum(length > 40 for length in all_lengths)


def test_the_card_and_the_run_have_the_same_split(own_data: list[str]) -> None:
    config = compose(own_data)
    assert build_data_card(config).split_hash == build_corpus(config.data).split_hash


WINDOWS = ("data.truncation=windows",)


def test_the_card_counts_windows(own_data: list[str]) -> None:
    card = build_data_card(compose([*own_data, "max_length=40", *WINDOWS, "data.max_windows=2"]))
    train = card.splits["train"]
    assert train.num_windows is not None
    # A window has 38 words and shares 10 of them: more than 38 words need two windows, more than 66 need three.
    assert train.num_windows.tolist() == [1 if length <= 40 else 2 if length <= 68 else 3 for length in train.lengths]
    text = card_text(card)
    assert "windows per document" in text and "read in windows of up to 40 tokens" in text
    assert "truncated" not in text and "# in windows" in " ".join(text.split())
    (gaps,) = (line.split() for line in text.splitlines() if line.startswith("read with gaps"))
    # Two windows of 38 words cover 76 words without a gap, even if they share fewer than 10 words.
    assert gaps[3] == "0.0%" and 68 < train.lengths.max() <= 78
    text = card_text(build_data_card(compose([*own_data, "max_length=40", *WINDOWS, "data.max_windows=1"])))
    (gaps,) = (line.split() for line in text.splitlines() if line.startswith("read with gaps"))
    assert gaps[3] == f"{(train.lengths > 40).mean():.1%}" != "0.0%"


def test_the_command_prints_the_card(own_data: list[str]) -> None:
    answer = command(*own_data, "max_length=40")
    assert answer.returncode == 0, answer.stderr
    lines = [line.split() for line in answer.stdout.splitlines()]
    assert ["train", "validation", "test"] in lines
    assert next(line for line in lines if line[:1] == ["documents"])[3] == "3"
    assert "1 text occurs in both train and test; all rows are kept." in answer.stdout
    assert "truncated to 40 tokens (data.truncation=head)" in answer.stdout
    assert "Split hash " in answer.stdout


def test_command_mistakes_are_reported(tmp_path: Path) -> None:
    answer = command("data=filse", "lrr=1")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.splitlines() == [
        "imdbcls: data=filse is not one of files, hub, imdb, sample; closest: files.",
        "lrr: there is no such key; closest: lr.",
    ]
    answer = command("data=files", f"data.train={tmp_path / 'none.csv'}", "backbone=tiny")
    assert answer.returncode == 2 and answer.stderr.startswith("imdbcls: ") and "none.csv" in answer.stderr
    answer = command("data=sample", "backbone=tiny", "max_length=9999")
    assert answer.stderr.startswith("imdbcls: max_length=9999 is more than the 512 tokens that backbone=tiny accepts.")


def test_many_classes_and_no_clusters_fit_the_page(own_data: list[str], tmp_path: Path) -> None:
    rows = [(f"film {row}", f"class {row % 30:02d}", "") for row in range(300)]
    path = write(tmp_path / "many.csv", rows)
    text = card_text(build_data_card(compose(["data=files", f"data.train={path}", *own_data[5:]])))
    assert f"Read 300 rows from {path}." in " ".join(text.split())
    assert "The validation split has only a few documents of some classes: 1 of 'class 0" in text
    assert (
        "class 19 " in text
        and "class 20 " not in text
        and "  10 more classes " in text
        and "clusters" not in text.lower()
    )
    assert max(len(line) for line in text.splitlines() if str(path) not in line) <= 120


def test_the_card_explains_clusters() -> None:
    text = " ".join(card_text(build_data_card(compose(["data=sample", "backbone=tiny"]))).split())
    assert re.search(r"clusters( \d+){3}", text)
    assert "Clusters: groups of documents that belong together, such as all reviews of one film." in text
    assert "compare treats clusters, not documents, as independent." in text


def test_the_histogram_counts_every_document_once() -> None:
    lengths = np.concatenate([np.arange(1, 121), [1000]])
    lines = histogram(lengths, 40, "truncated")
    assert len(lines) == 13 and [line.split()[0] for line in lines[:2]] == ["1", "11"]
    assert [int(line.split()[3]) for line in lines] == [10] * 12 + [1]
    assert [line.partition("#  ")[2] for line in lines] == [""] * 4 + ["truncated"] * 9
    assert [line.partition("#  ")[2] for line in histogram(lengths, 45, "truncated")[3:6]] == [
        "",
        "partly truncated",
        "truncated",
    ]
    assert not any("truncated" in line for line in histogram(lengths, 1000, "truncated")[:-1])
    assert histogram(np.array([1, 1]), 8, "truncated")[0].split()[:4] == ["1", "to", "1", "2"]


@pytest.mark.needs("roberta-base")
def test_the_tokenizer_needs_no_weights() -> None:
    assert not list(ROBERTA.glob("*.safetensors"))
    assert build_tokenizer(compose([f"backbone.path={ROBERTA}"])).pad_token_id == 1


@pytest.mark.slow
@pytest.mark.needs("imdb")
def test_the_card_of_imdb(tmp_path: Path) -> None:
    answer = command(f"data.path={IMDB}", "backbone=tiny", "data.train_limit=400", f"data.cache_dir={tmp_path}")
    assert answer.returncode == 0, answer.stderr
    assert "123 texts occur in both train and test; all rows are kept." in answer.stdout
    assert "25,000" in answer.stdout and "12,500 (50.0%)" in answer.stdout
