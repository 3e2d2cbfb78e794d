"""Take a small, representative part of each split, to measure a run without all of its documents."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from imdbcls.data.documents import Corpus, Documents


def subset(corpus: Corpus, sizes: Mapping[str, int]) -> Corpus:
    """Return a corpus with `sizes[split]` documents of each split, or all of them if the split is smaller.

    The lengths of the texts have almost the same distribution as in the split, because the documents are evenly spaced
    in the order of length. If a class is missing among them, its first document is added. `split_hash` stays the same,
    so use this corpus only for measurements.
    """
    splits = {name: spread(documents, sizes[name]) for name, documents in corpus.splits.items()}
    return replace(corpus, train=splits["train"], validation=splits["validation"], test=splits["test"])


def spread(documents: Documents, size: int) -> Documents:
    """Select documents that are evenly spaced from the shortest to the longest; return them in their original order.

    If a class is missing among the selected documents, its first document is added.
    """
    if size >= len(documents):
        return documents
    lengths = np.array([len(text) for text in documents.texts])
    if documents.pairs is not None:
        lengths += [len(text) for text in documents.pairs]
    order = np.argsort(lengths, kind="stable")
    places = ((np.arange(size) + 0.5) * len(documents) / size).astype(np.int64)
    _, first_of_class = np.unique(documents.labels, return_index=True)
    missing = ~np.isin(documents.labels[first_of_class], documents.labels[order[places]])
    return documents.take(np.union1d(order[places], first_of_class[missing]))
