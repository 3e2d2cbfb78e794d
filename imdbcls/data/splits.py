"""Turn a source into a corpus: carve out missing splits, apply the limits and hash the result."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.documents import Corpus, Documents, Source
from imdbcls.data.imbalance import imbalance_notes
from imdbcls.data.text_column import MappedTexts, take
from imdbcls.errors import UserError
from imdbcls.printable import counted

KEY_BYTES = 16  # size of a text key, and of a pseudo-random string from `_draw`
MAX_PARTS = 20  # parts of the test split whose accuracy is reported

# The keys of the data section that are arguments of `make_corpus`.
SPLIT_SETTINGS = (
    "validation_fraction",
    "test_fraction",
    "split_seed",
    "train_limit",
    "validation_limit",
    "test_limit",
    "validate_on_train",
)


def make_corpus(
    source: Source,
    *,
    validation_fraction: float,
    test_fraction: float,
    split_seed: int,
    train_limit: int | float | None,
    validation_limit: int | float | None,
    test_limit: int | float | None,
    validate_on_train: bool = False,
) -> Corpus:
    """Make the three splits of a run.

    A missing test split is carved out of train (`test_fraction`), and then a missing validation split is carved out of
    the rest (`validation_fraction`). Carved splits are stratified by class. Carving never separates documents of one
    cluster, or duplicates (documents whose texts differ only in white space). A carved split depends only on the
    documents, the fractions and `split_seed`, not on the order of rows or on the limits.

    A limit of n keeps n documents, or the fraction n of them if n is below 1, stratified by class and drawn with
    `split_seed`. The documents that a smaller limit keeps are a subset of the documents that a larger limit keeps. The
    documents of a split are in the order of their ids. With `validate_on_train`, the validation split is the train
    split.

    Raise UserError for a fraction or limit that is out of range, and for a test split of more than `MAX_PARTS` parts.
    Also raise UserError if a split would be empty or have a single class, or if train would lack one of the classes.
    """
    notes: list[str] = list(source.notes)
    parts = {"train": _Part.of(source.train)}
    if source.validation is not None:
        parts["validation"] = _Part.of(source.validation)
    if source.test is not None:
        parts["test"] = _Part.of(source.test)
    notes += _duplicate_notes(parts)

    for name, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if name == "validation" and validate_on_train:
            parts[name], validation_limit = parts["train"], train_limit
        elif name not in parts:
            parts[name], parts["train"] = _carve(parts["train"], name, fraction, split_seed, len(source.label_names))
            if name == "test":
                notes.append(
                    f"The data has no test split; {len(parts[name])} documents of train become the test split."
                )

    splits = {}
    for name, limit in (("train", train_limit), ("validation", validation_limit), ("test", test_limit)):
        splits[name] = _limit(parts[name], name, limit, split_seed, notes)
        _require_classes(splits[name], name, source.label_names, limit, notes)
    _require_few_parts(splits["test"])
    notes += imbalance_notes(splits, source.label_names)
    return Corpus(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        label_names=source.label_names,
        split_hash=hash_of_splits(splits, source.label_names),
        notes=tuple(notes),
        held_out_hash=hash_of_texts(parts["validation"].text_keys, parts["test"].text_keys),
    )


@dataclass(frozen=True)
class _Part:
    """The documents of one split, and for each document a hash of its text (see `text_keys`)."""

    documents: Documents
    text_keys: NDArray[np.bytes_]

    @classmethod
    def of(cls, documents: Documents) -> "_Part":
        return cls(documents, text_keys(documents.texts, documents.pairs))

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, rows: NDArray[np.int64]) -> "_Part":
        return _Part(self.documents.take(rows), self.text_keys[rows])


def text_keys(texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.bytes_]:
    """Return a key of 16 bytes for the text of each document.

    Texts that differ only in ASCII white space have the same key. If each document is a pair of texts, `pairs` are the
    second texts.
    """
    # Every job of a sweep waits for this loop. Deleting white space as bytes takes a quarter of the time of
    # `"".join(text.split())`.
    stripped = (text.encode().translate(None, b" \t\n\r\v\f") for text in texts)
    if pairs is not None:
        seconds = (text.encode().translate(None, b" \t\n\r\v\f") for text in pairs)
        stripped = (b"%d %b %b" % (len(one), one, other) for one, other in zip(stripped, seconds, strict=True))
    return byte_array((hashlib.blake2b(text, digest_size=KEY_BYTES).digest() for text in stripped), len(texts))


def byte_array(digests: Iterable[bytes], count: int) -> NDArray[np.bytes_]:
    return np.fromiter(digests, dtype=f"S{KEY_BYTES}", count=count)


def hexadecimal(key: np.bytes_) -> str:
    """Return a key in hexadecimal digits. NumPy removes zero bytes at the end of a string, so they are added again."""
    return key.ljust(KEY_BYTES, b"\0").hex()


def _carve(part: _Part, name: str, fraction: float, split_seed: int, num_classes: int) -> tuple[_Part, _Part]:
    """Split off about `fraction` of each class and return (carved, rest), without dividing clusters or duplicates.

    A unit consists of documents that must stay together. Two passes visit the units in a pseudo-random order. The first
    pass takes a unit if no class then exceeds its target number of documents. With clusters of usual size, every class
    ends within a few documents of its target. The second pass is for clusters that are larger than the targets: it
    takes a unit if this brings the class counts nearer to the targets.
    """
    key = f"data.{name}_fraction"
    if not 0 < fraction < 1:
        raise UserError(f"{key}={fraction} must be between 0 and 1: it is the share of train that becomes {name}.")
    labels = part.documents.labels
    unit_keys, unit_of_row = _units(part)
    draws = byte_array((_draw(f"carve {name}", split_seed, hexadecimal(key)) for key in unit_keys), len(unit_keys))
    order = np.argsort(draws, kind="stable")
    del draws
    labels_by_unit = labels[np.argsort(unit_of_row, kind="stable")]
    first_of_unit = np.concatenate([[0], np.cumsum(np.bincount(unit_of_row, minlength=len(unit_keys)))])

    def counts_of(unit: np.int64) -> NDArray[np.int64]:
        """Return the number of documents of each class in a unit."""
        of_unit = labels_by_unit[first_of_unit[unit] : first_of_unit[unit + 1]]
        return np.bincount(of_unit, minlength=num_classes)

    totals = np.bincount(labels, minlength=num_classes)
    # Carve at least one document of each class with two or more documents, so that rare classes can be evaluated.
    targets = np.where(totals > 1, np.maximum(1, np.rint(totals * fraction)), 0)
    counts = np.zeros(num_classes)
    taken = np.zeros(len(unit_keys), dtype=bool)
    for unit in order:
        after = counts + counts_of(unit)
        if (after <= targets).all():
            counts = after
            taken[unit] = True
            if (counts == targets).all():
                break

    def distance(counts: NDArray[np.float64]) -> float:
        return float(((counts - targets) ** 2 / np.maximum(targets, 1)).sum())

    for unit in order if (counts < targets).any() else ():
        if not taken[unit] and distance(counts + counts_of(unit)) < distance(counts):
            counts = counts + counts_of(unit)
            taken[unit] = True

    if not taken.any() or ((counts == totals) & (totals > 0)).any():
        problem = "leaves train without one of its classes" if taken.any() else f"leaves {name} empty"
        found = "1 cluster" if len(unit_keys) == 1 else f"only {len(unit_keys):,} clusters"
        reason = f"the {len(part):,} documents are too few"
        if len(unit_keys) < len(part):
            reason = (
                f"the {len(part):,} documents form {found}, because documents with equal texts or the same value in "
                "data.group_column stay together"
            )
        raise UserError(
            f"{key}={fraction} {problem}: {reason}. Use more data, another fraction or a separate {name} split."
        )
    inside = taken[unit_of_row]
    return part.take(np.flatnonzero(inside)), part.take(np.flatnonzero(~inside))


def _units(part: _Part) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Join documents with the same cluster or text into units. Return (key of each unit, unit of each row).

    The key of a unit is the smallest text key of its documents, so it does not depend on the order of rows.
    """
    keys, text_of_row = np.unique(part.text_keys, return_inverse=True)  # `keys` is sorted
    if part.documents.clusters is None:
        return keys, text_of_row
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes: dict[str, int] = {}
    numbers = (codes.setdefault(name, len(codes)) for name in part.documents.clusters)
    cluster_of_row = np.fromiter(numbers, dtype=np.int64, count=len(part))
    # A graph with a node per text and per cluster, and an edge per document.
    edges = (np.ones(len(part)), (text_of_row, len(keys) + cluster_of_row))
    num_nodes = len(keys) + len(codes)
    _, unit_of_node = connected_components(coo_array(edges, shape=(num_nodes, num_nodes)), directed=False)
    _, first_text, unit_of_text = np.unique(unit_of_node[: len(keys)], return_index=True, return_inverse=True)
    return keys[first_text], unit_of_text[text_of_row]


def limited(documents: Documents, name: str, limit: int | float | None, split_seed: int, notes: list[str]) -> Documents:
    """Return `limit` documents of a split, as `make_corpus` chooses them for the same limit and split_seed."""
    return _limit(_Part.of(documents), name, limit, split_seed, notes)


def _limit(part: _Part, name: str, limit: int | float | None, split_seed: int, notes: list[str]) -> Documents:
    """Return `limit` documents of a split, in the order of their ids; all if `limit` is None or too large.

    A limit between 0 and 1 is a fraction of the split.
    """
    chosen = np.arange(len(part))
    if limit is not None:
        if limit <= 0:
            raise UserError(
                f"data.{name}_limit={limit} must be at least 1, a fraction above 0, or null for all documents."
            )
        limit = max(1, round(limit * len(part))) if limit < 1 else int(limit)
        if limit > len(part):
            notes.append(f"data.{name}_limit={limit} exceeds the {len(part):,} documents of the split; all are used.")
        chosen = _ranking(part, split_seed)[:limit]
    in_order = _order_of(take(part.documents.ids, chosen), by_length=True)  # numeric ids are then in numeric order
    return part.documents.take(chosen[in_order])


def _order_of(ids: Sequence[str], *, by_length: bool) -> NDArray[np.int64]:
    """Return the rows in the order of their ids. With `by_length`, shorter ids come first."""
    if not isinstance(ids, MappedTexts):
        rows = sorted(range(len(ids)), key=lambda row: (len(ids[row]) if by_length else 0, ids[row]))
        return np.array(rows, dtype=np.int64)
    import pyarrow
    from pyarrow import compute

    column = ids.arrow()  # Arrow compares bytes of UTF-8, which has the same result as comparing characters
    table = pyarrow.table({"length": compute.utf8_length(column), "id": column})
    keys = ("length", "id") if by_length else ("id",)
    order = compute.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    return order.to_numpy().astype(np.int64)


def _ranking(part: _Part, split_seed: int) -> NDArray[np.int64]:
    """Return all rows in random order, such that the first n rows are stratified for every n.

    With two classes, the first n rows contain the exact share of each class, rounded to a whole number. With many
    classes of few documents, the difference from the exact share can be larger.
    """
    draws = byte_array((_draw("limit", split_seed, hexadecimal(key)) for key in part.text_keys), len(part))
    # Use ids only to break ties between equal texts: ids may be row numbers, and the order of rows must not matter.
    by_id = _order_of(part.documents.ids, by_length=False)
    order = by_id[np.argsort(draws[by_id], kind="stable")]
    labels = part.documents.labels[order]
    share_before = np.zeros(len(part))  # the relative position of each document in its class, between 0 and 1
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        share_before[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return order[np.argsort(share_before, kind="stable")]


def _require_classes(
    documents: Documents, name: str, label_names: Sequence[str], limit: int | float | None, notes: list[str]
) -> None:
    """Raise UserError if a split lacks a class that it needs; add a note if it lacks another class."""
    present = set(documents.labels.tolist())
    missing = [label for index, label in enumerate(label_names) if index not in present]
    cause = f" with data.{name}_limit={limit}" if limit is not None else ""
    size = counted(len(documents), "document")
    if len(present) < 2 or (missing and name == "train"):
        raise UserError(
            f"The {name} split has {size}{cause}, but none of class {', '.join(missing)}; "
            + ("training needs every class." if name == "train" else "evaluation needs at least two classes.")
        )
    if missing:
        notes.append(f"The {name} split has no document of class {', '.join(missing)}{cause}.")


def _require_few_parts(test: Documents) -> None:
    """Raise UserError if the test split has more parts than a report can show."""
    if (num_parts := len(set(test.parts or ()))) > MAX_PARTS:
        raise UserError(
            f"data.part_column has {num_parts:,} different values in the test split; at most {MAX_PARTS} are allowed, "
            "because the accuracy of each part is reported. Choose another column, or set data.part_column=null."
        )


def _duplicate_notes(parts: Mapping[str, _Part]) -> list[str]:
    """Return notes on the texts in train that have different labels or that also occur in another split."""
    notes = []
    train = parts["train"]
    keys, text_of_row = np.unique(train.text_keys, return_inverse=True)
    num_classes = int(train.documents.labels.max()) + 1
    pairs = np.unique(text_of_row * num_classes + train.documents.labels)  # a number for each pair of text and label
    contradicting = int((np.bincount(pairs // num_classes, minlength=len(keys)) > 1).sum())
    if contradicting:
        texts = "1 text in train has" if contradicting == 1 else f"{contradicting:,} texts in train have"
        notes.append(f"{texts} different labels in different rows; all rows are kept.")
    for name in ("validation", "test"):
        shared = len(np.intersect1d(keys, parts[name].text_keys)) if name in parts else 0
        if shared:
            texts = "1 text occurs" if shared == 1 else f"{shared:,} texts occur"
            notes.append(f"{texts} in both train and {name}; all rows are kept.")
    return notes


def _draw(purpose: str, split_seed: int, key: str) -> bytes:
    """Return a pseudo-random string for `key`: a hash, which does not depend on library versions."""
    return hashlib.blake2b(f"{purpose} {split_seed} {key}".encode(), digest_size=KEY_BYTES).digest()


def hash_of_texts(*splits: NDArray[np.bytes_]) -> str:
    """Return a hash of the texts of some splits, given as the keys of the texts. The order in a split is ignored."""
    digest = hashlib.sha256()
    for text_keys in splits:
        digest.update(f"{len(text_keys)} ".encode())
        digest.update(np.sort(text_keys).tobytes())
    return digest.hexdigest()[:16]


def hash_of_splits(splits: Mapping[str, Documents], label_names: Sequence[str]) -> str:
    """Return a hash of the class names, and of the ids, labels and texts of all splits."""
    digest = hashlib.sha256(repr(tuple(label_names)).encode())
    for name, documents in splits.items():
        digest.update(f"{name} {len(documents)}".encode())
        digest.update(documents.labels.tobytes())
        for text_id, text in zip(documents.ids, documents.texts, strict=True):
            for part in (text_id.encode(), text.encode()):
                # Hash the lengths too, so that ("ab", "c") and ("a", "bc") differ.
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
        for pair in documents.pairs or ():
            digest.update(len(pair.encode()).to_bytes(8, "little"))
            digest.update(pair.encode())
    return digest.hexdigest()[:16]
