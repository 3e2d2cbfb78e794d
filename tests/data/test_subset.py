"""A subset represents the lengths and the classes of all documents."""

import numpy as np

from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.subset import spread, subset


def documents(num_documents: int, rare: int = 0) -> Documents:
    """Return documents of random lengths. The last `rare` documents have a class of their own."""
    lengths = np.random.default_rng(0).lognormal(5, 0.7, num_documents).astype(int)
    labels = np.arange(num_documents) % 2
    labels[num_documents - rare :] = 2
    ids = [f"d{index}" for index in range(num_documents)]
    return Documents(ids=ids, texts=["x" * int(length) for length in lengths], labels=labels, clusters=ids)


def mean_length(found: Documents) -> float:
    return float(np.mean([len(text) for text in found.texts]))


def test_the_lengths_are_those_of_all_documents() -> None:
    everything = documents(5_000)
    few = spread(everything, 50)
    assert len(few) == 50 and list(few.ids) == sorted(few.ids, key=lambda name: int(name[1:]))
    # A random sample of this size is off by 10 % on average.
    assert abs(mean_length(few) / mean_length(everything) - 1) < 0.03


def test_a_rare_class_is_kept() -> None:
    few = spread(documents(5_000, rare=2), 40)
    assert set(few.labels.tolist()) == {0, 1, 2} and len(few) <= 41


def test_a_small_split_is_used_completely() -> None:
    small, large = documents(10), documents(300)
    corpus = Corpus(large, small, small, ("no", "yes"), "hash", ())
    found = subset(corpus, {"train": 100, "validation": 32, "test": 32})
    assert (len(found.train), found.validation, found.test) == (100, small, small)
