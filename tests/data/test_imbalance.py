"""Unequal and small classes are noted."""

import numpy as np

from imdbcls.data.documents import Documents
from imdbcls.data.imbalance import imbalance_notes


def documents(*counts: int) -> Documents:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [str(row) for row in range(len(labels))]
    return Documents(names, names, labels)


def test_unequal_and_small_classes_are_noted() -> None:
    splits = {"train": documents(90, 60, 30), "validation": documents(20, 12, 9), "test": documents(30, 0, 1)}
    unequal, validation, test = imbalance_notes(splits, ("a", "b", "c"))
    assert "train has 90 documents of 'a' (50.0%) and 30 of 'c'" in unequal and "metric=f1" in unequal
    assert validation.startswith("The validation split has only a few documents of some classes: 9 of 'c'.")
    assert "some classes: 1 of 'c'." in test
    splits = {"train": documents(80, 60, 30), "validation": documents(20, 12, 10), "test": documents(30, 0, 10)}
    assert list(imbalance_notes(splits, ("a", "b", "c"))) == []
