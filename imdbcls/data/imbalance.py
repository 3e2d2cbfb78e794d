"""Notes on classes of unequal size, and on classes that are too small to be evaluated."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from imdbcls.data.documents import Documents

UNEQUAL = 3.0  # minimum ratio of the largest class to the smallest class for a note on unequal sizes
# Report a class with fewer documents than this in validation or test: one document then changes the recall of the
# class by over 10 points.
FEW_DOCUMENTS = 10
MAX_LISTED = 5  # small classes in one note


def imbalance_notes(splits: Mapping[str, Documents], label_names: Sequence[str]) -> Iterator[str]:
    """Yield a note if the classes in train have unequal sizes, and a note on small classes in the other splits.

    Classes without any document in a split are not among the small classes.
    """
    counts_C = np.bincount(splits["train"].labels, minlength=len(label_names))
    largest, smallest = int(counts_C.argmax()), int(counts_C.argmin())
    if counts_C[largest] >= UNEQUAL * counts_C[smallest]:
        yield (
            f"The classes have unequal sizes: train has {counts_C[largest]:,} documents of {label_names[largest]!r} "
            f"({counts_C[largest] / counts_C.sum():.1%}) and {counts_C[smallest]:,} of {label_names[smallest]!r}. "
            "Accuracy depends mostly on the large classes; metric=f1 counts every class equally, and "
            "loss.class_weights=auto gives rare classes more weight in training."
        )
    for split in ("validation", "test"):
        counts_C = np.bincount(splits[split].labels, minlength=len(label_names))
        small = [index for index in np.argsort(counts_C, kind="stable") if 0 < counts_C[index] < FEW_DOCUMENTS]
        if small:
            listed = ", ".join(f"{counts_C[index]:,} of {label_names[index]!r}" for index in small[:MAX_LISTED])
            more = f" and {len(small) - MAX_LISTED:,} more classes" if len(small) > MAX_LISTED else ""
            yield (
                f"The {split} split has only a few documents of some classes: {listed}{more}. The scores of "
                "these classes on this split are uncertain."
            )
