"""Test that splits depend only on documents and seed, keep clusters and duplicates together, and are stratified."""

from dataclasses import replace

import numpy as np
import pytest
from support.runs import SHARED

from imdbcls.data.documents import Corpus, Documents, Source
from imdbcls.data.imdb import read_imdb
from imdbcls.data.splits import make_corpus
from imdbcls.errors import UserError


def split(source: Source, seed: int = 0, **changed: int | float | None) -> Corpus:
    arguments = {
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "train_limit": None,
        "validation_limit": None,
        "test_limit": None,
    }
    return make_corpus(source, split_seed=seed, **(arguments | changed))  # type: ignore[arg-type]


def make_documents(num_documents: int = 600, name: str = "train", num_films: int | None = 80) -> Documents:
    """Return documents of films with very uneven sizes. Two thirds have class 0. Every 20th text is in two films."""
    rng = np.random.default_rng(len(name))
    texts = [f"{name} review {row - 1 if row % 20 == 1 else row}" for row in range(num_documents)]
    labels = np.array([int((row - 1 if row % 20 == 1 else row) % 3 == 0) for row in range(num_documents)])
    films = None if num_films is None else [f"film{int(film)}" for film in rng.zipf(1.5, num_documents) % num_films]
    return Documents([f"{name}/{row}" for row in range(num_documents)], texts, labels, films)


def make_source(num_films: int | None = 80) -> Source:
    return Source(make_documents(num_films=num_films), make_documents(300, "test", num_films), None, ("a", "b"))


def shuffle(documents: Documents) -> Documents:
    return documents.take(np.random.default_rng(5).permutation(len(documents)))


@pytest.mark.parametrize("num_films", [None, 80])
def test_no_film_and_no_text_is_in_both_splits(num_films: int | None) -> None:
    for seed in range(5):
        corpus = split(make_source(num_films), seed)
        assert not set(corpus.train.texts) & set(corpus.validation.texts)
        if corpus.train.clusters is not None and corpus.validation.clusters is not None:
            assert not set(corpus.train.clusters) & set(corpus.validation.clusters)
        assert set(corpus.train.ids) | set(corpus.validation.ids) == set(make_documents().ids)


def test_splits_are_stratified_near_the_requested_fraction() -> None:
    films = [f"film{row % 97}" for row in range(600)]
    for seed in range(5):
        one_by_one = make_source(None)
        counts = np.bincount(split(one_by_one, seed).validation.labels)
        assert np.abs(counts - np.array([40, 20])).max() <= 1, counts
        of_six = replace(one_by_one, train=replace(one_by_one.train, clusters=films))
        counts = np.bincount(split(of_six, seed, validation_fraction=0.25).validation.labels)
        assert np.abs(counts - np.array([100, 50])).max() <= 6, f"{counts}: off by more than one film"
        # In this source, one film has 36 % of the documents, and duplicates join a few films, which together have most
        # of the documents. The split can therefore only approximate the fraction.
        counts = np.bincount(split(make_source(), seed, validation_fraction=0.25).validation.labels)
        assert np.abs(counts - np.array([100, 50])).max() <= 15, counts


def test_white_space_does_not_hide_a_duplicate() -> None:
    texts = [f"review {row}" for row in range(20)] + [f" review\n {row} " for row in range(20)]
    documents = Documents([str(row) for row in range(40)], texts, np.arange(40) % 2)
    corpus = split(Source(documents, make_documents(20, "test"), None, ("a", "b")))
    sides = [{text.split()[1] for text in side.texts} for side in (corpus.train, corpus.validation)]
    assert not sides[0] & sides[1] and sides[1]


def test_order_of_rows_does_not_matter() -> None:
    source = make_source()
    assert source.test is not None
    shuffled = replace(source, train=shuffle(source.train), test=shuffle(source.test))
    limits = {"train_limit": 100, "validation_limit": 20, "test_limit": 50}
    for changed in ({}, limits):
        one, other = split(source, **changed), split(shuffled, **changed)
        assert one.split_hash == other.split_hash
        assert list(one.train.ids) == list(other.train.ids)
    assert split(source).split_hash != split(source, 1).split_hash
    assert split(source).split_hash != split(source, **limits).split_hash


def test_order_of_rows_does_not_matter_if_ids_are_row_numbers() -> None:
    train = shuffle(make_documents(num_films=None))
    renamed = replace(train, ids=[f"train/{row:06d}" for row in range(len(train))])
    one = split(make_source(None), train_limit=100)
    other = split(replace(make_source(None), train=renamed), train_limit=100)
    assert sorted(one.train.texts) == sorted(other.train.texts)
    assert sorted(one.validation.texts) == sorted(other.validation.texts)


def test_limits_are_nested_and_stratified_and_keep_the_split() -> None:
    source = make_source()
    unlimited = split(source)
    larger = set(unlimited.train.ids)
    for limit in (300, 120, 30, 3):
        corpus = split(source, train_limit=limit)
        assert set(corpus.train.ids) < larger and len(corpus.train) == limit
        assert abs(np.bincount(corpus.train.labels)[1] - limit / 3) <= 1.1
        assert list(corpus.validation.ids) == list(unlimited.validation.ids)
        larger = set(corpus.train.ids)
    assert len(split(source, test_limit=50, validation_limit=10).test) == 50


def test_numeric_ids_are_in_numeric_order() -> None:
    documents = replace(make_documents(300, "test"), ids=[str(row) for row in range(300)])
    assert list(split(replace(make_source(), test=shuffle(documents))).test.ids) == [str(row) for row in range(300)]


def test_a_missing_test_split_is_carved_first_and_noted() -> None:
    corpus = split(replace(make_source(), test=None), test_fraction=0.2)
    assert abs(len(corpus.test) - 120) <= 3
    assert "no test split" in corpus.notes[0]
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not set(getattr(corpus, one).clusters) & set(getattr(corpus, other).clusters)


def test_a_rare_class_is_in_both_splits_and_a_single_document_stays_in_train() -> None:
    labels = np.array([0] * 100 + [1] * 2 + [2])
    documents = Documents([str(row) for row in range(103)], [f"t{row}" for row in range(103)], labels)
    corpus = split(Source(documents, documents, None, ("common", "rare", "single")))
    assert np.bincount(corpus.validation.labels).tolist() == [10, 1]
    assert "The validation split has no document of class single." in corpus.notes


def test_split_mistakes_are_reported() -> None:
    source = make_source()
    for changed, sentence in (
        (
            {"validation_fraction": 0.0},
            "data.validation_fraction=0.0 must be between 0 and 1: it is the share of train that becomes val",
        ),
        ({"validation_fraction": 1.0}, "must be between 0 and 1"),
        ({"train_limit": 0}, "data.train_limit=0 must be at least 1"),
        ({"train_limit": 1}, "train split has 1 document with data.train_limit=1, but none of class b"),
        ({"test_limit": 1}, "test split has 1 document with data.test_limit=1, but none of class b"),
    ):
        with pytest.raises(UserError, match=sentence):
            split(source, **changed)
    assert "exceeds the 300 documents of the split" in split(source, test_limit=999).notes[-1]
    films = [f"film{row % 2}" for row in range(60)]
    by_class = Documents([str(row) for row in range(60)], [f"t{row}" for row in range(60)], np.arange(60) % 2, films)
    with pytest.raises(UserError, match=r"data.validation_fraction=0.1 leaves validation empty: .* only 2 clusters"):
        split(replace(source, train=by_class))


@pytest.mark.needs("imdb")
def test_real_imdb_is_split_by_film() -> None:
    source = read_imdb(str(SHARED / "imdb"))
    corpus = split(source)
    assert corpus.train.clusters is not None and corpus.validation.clusters is not None
    assert not set(corpus.train.clusters) & set(corpus.validation.clusters)
    assert not set(corpus.train.texts) & set(corpus.validation.texts)
    assert len(corpus.test) == 25_000 and len(corpus.train) + len(corpus.validation) == 25_000
    assert np.abs(np.bincount(corpus.validation.labels) - 1250).max() <= 2
    assert corpus.notes == ("123 texts occur in both train and test; all rows are kept.",)
