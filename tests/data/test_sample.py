"""Test that the sample corpus has the properties that its README states."""

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

import imdbcls.data.sample
from imdbcls.data.documents import Documents
from imdbcls.data.sample import read_sample

README = Path(imdbcls.data.sample.__path__[0]) / "README.md"


@pytest.fixture(scope="module")
def splits() -> dict[str, Documents]:
    source = read_sample()
    assert source.test is not None and source.validation is None
    assert source.label_names == ("negative", "positive")
    return {"train": source.train, "test": source.test}


def test_counts_and_balance(splits: dict[str, Documents]) -> None:
    assert {name: len(documents) for name, documents in splits.items()} == {"train": 900, "test": 320}
    for documents in splits.values():
        assert Counter(documents.labels.tolist()) == {0: len(documents) // 2, 1: len(documents) // 2}


def test_reviews_have_20_to_250_words(splits: dict[str, Documents]) -> None:
    lengths = [len(text.split()) for documents in splits.values() for text in documents.texts]
    assert min(lengths) >= 20 and max(lengths) <= 250
    assert f"{min(lengths)} to {max(lengths)} words" in " ".join(README.read_text().split())
    short, long = (sum(low <= length < high for length in lengths) for low, high in ((20, 60), (100, 251)))
    assert short > 50 and long > 50, "the lengths do not vary enough"


def test_ids_and_texts_are_unique(splits: dict[str, Documents]) -> None:
    ids = [name for documents in splits.values() for name in documents.ids]
    texts = [" ".join(text.lower().split()) for documents in splits.values() for text in documents.texts]
    assert len(set(ids)) == len(set(texts)) == 1220


def test_no_film_is_in_both_splits(splits: dict[str, Documents]) -> None:
    films = {name: set(documents.clusters or ()) for name, documents in splits.items()}
    assert {name: len(found) for name, found in films.items()} == {"train": 300, "test": 108}
    assert not films["train"] & films["test"]


def test_no_two_reviews_share_eight_words_in_a_row(splits: dict[str, Documents]) -> None:
    """The reviews do not follow templates: no two share a long phrase."""
    places = defaultdict(set)
    for documents in splits.values():
        for name, text in zip(documents.ids, documents.texts, strict=True):
            words = ["".join(filter(str.isalnum, word)) for word in text.lower().split()]
            for start in range(len(words) - 7):
                places[tuple(words[start : start + 8])].add(name)
    shared = {" ".join(words): names for words, names in places.items() if len(names) > 1}
    assert not shared


def test_labels_do_not_follow_a_pattern(splits: dict[str, Documents]) -> None:
    """Neither length nor order reveals the class, and many films have reviews of both classes."""
    for documents in splits.values():
        lengths = {label: [] for label in (0, 1)}
        for text, label in zip(documents.texts, documents.labels.tolist(), strict=True):
            lengths[label].append(len(text.split()))
        means = [sum(values) / len(values) for values in lengths.values()]
        assert abs(means[0] - means[1]) < 0.2 * max(means)
        runs = sum(one != other for one, other in pairwise(documents.labels.tolist()))
        assert len(documents) / 3 < runs < 2 * len(documents) / 3
        mixed = defaultdict(set)
        for film, label in zip(documents.clusters or (), documents.labels.tolist(), strict=True):
            mixed[film].add(label)
        assert sum(len(labels) == 2 for labels in mixed.values()) > len(mixed) / 4


def test_difficulties_are_as_documented(splits: dict[str, Documents]) -> None:
    """More than a third of the test documents are mixed or ironic, and both kinds occur in both classes."""
    counts = {name: Counter(documents.parts or ()) for name, documents in splits.items()}
    assert counts == {
        "train": {"plain": 542, "mixed": 229, "ironic": 129},
        "test": {"plain": 199, "mixed": 79, "ironic": 42},
    }
    text = " ".join(README.read_text().split())
    for split, found in counts.items():
        assert f"| {split} | {found['plain']} | {found['mixed']} | {found['ironic']} |" in text
    for kind in ("mixed", "ironic"):
        labels = [
            label
            for label, part in zip(splits["test"].labels.tolist(), splits["test"].parts or (), strict=True)
            if part == kind
        ]
        assert 0.2 < sum(labels) / len(labels) < 0.8


def test_the_readme_documents_the_corpus() -> None:
    text = README.read_text()
    for phrase in (
        "1,220",
        "610 positive and 610 negative",
        "language model",
        "invented",
        "Apache-2.0",
        "demonstration",
    ):
        assert phrase in text
