"""The data card: what a data choice holds, as the run would read, split, tokenise and truncate it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imdbcls import build
from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.splits import text_keys
from imdbcls.data.tokens import tokenize

NUM_BINS = 12  # of the histogram of lengths
BAR = 40  # characters of its longest bar
MOST_CLASSES = 20  # shown by name
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitCard:
    """One split: `lengths` are tokens of each document before truncation, special ones included, shape (documents,)."""

    class_counts: tuple[int, ...]
    lengths: NDArray[np.int64]
    num_groups: int | None  # films, authors, …; None where the data has none
    num_repeated: int  # documents whose text occurs earlier in the same split
    num_in_train: int  # documents whose text occurs in train; those of train itself count as none

    @property
    def num_documents(self) -> int:
        return len(self.lengths)

    def share_over(self, max_length: int) -> float:
        """The fraction of documents that `max_length` tokens truncate."""
        return float((self.lengths > max_length).mean())


@dataclass(frozen=True)
class DataCard:
    """A data choice under one configuration; `splits` are train, validation and test."""

    name: str
    backbone: str
    max_length: int
    truncation: str
    label_names: tuple[str, ...]
    splits: Mapping[str, SplitCard]
    split_hash: str
    notes: tuple[str, ...]


def data_card(config: Mapping[str, Any]) -> DataCard:
    """Read, split and tokenise as a run with this resolved configuration would; its tokens are then in the cache.

    Raises UserError as the run would.
    """
    corpus = build.build_corpus(config)
    tokenizer = tokenizer_of(config)
    train_keys = set(text_keys(corpus.train.texts))
    splits = {}
    for name in SPLITS:
        documents: Documents = getattr(corpus, name)
        lengths = tokenize(documents, tokenizer, cache_dir=config["data"]["cache_dir"]).lengths
        splits[name] = split_card(documents, lengths, corpus, set() if name == "train" else train_keys)
    return DataCard(
        name=config["data"]["name"],
        backbone=config["backbone"]["name"],
        max_length=config["max_length"],
        truncation=config["data"]["truncation"],
        label_names=corpus.label_names,
        splits=splits,
        split_hash=corpus.split_hash,
        notes=corpus.notes,
    )


def tokenizer_of(config: Mapping[str, Any]) -> Any:
    """The tokenizer of the configuration's backbone, which is built without memory or weights on the way."""
    with torch.device("meta"):
        return build.build_backbone({**config, "backbone": {**config["backbone"], "pretrained": False}}).tokenizer


def split_card(documents: Documents, lengths: NDArray[np.int64], corpus: Corpus, train_keys: set[str]) -> SplitCard:
    keys = text_keys(documents.texts)
    return SplitCard(
        class_counts=tuple(np.bincount(documents.labels, minlength=len(corpus.label_names)).tolist()),
        lengths=lengths,
        num_groups=None if documents.groups is None else len(set(documents.groups)),
        num_repeated=len(keys) - len(set(keys)),
        num_in_train=sum(key in train_keys for key in keys),
    )


def card_text(card: DataCard) -> str:
    """The card as plain text, for a terminal."""
    return "\n".join(
        [
            f"data={card.name}, tokens of backbone={card.backbone}, max_length={card.max_length}",
            "",
            *table_of(sizes(card)),
            "",
            *table_of(lengths(card)),
            "",
            f"Lengths in tokens of all {sum(split.num_documents for split in card.splits.values()):,} documents:",
            *histogram(np.concatenate([split.lengths for split in card.splits.values()]), card.max_length),
            "",
            f"Longer documents lose what is beyond {card.max_length} tokens (data.truncation={card.truncation}).",
            *card.notes,
            f"Split hash {card.split_hash}: runs with the same one trained and were scored on the same documents.",
        ]
    )


def sizes(card: DataCard) -> list[list[str]]:
    """Documents, classes, groups and duplicates of each split."""
    shown = card.label_names[:MOST_CLASSES]
    rows = [["documents", *(f"{split.num_documents:,}" for split in card.splits.values())]]
    for index, label in enumerate(shown):
        counts = ((split.class_counts[index], split.num_documents) for split in card.splits.values())
        rows.append([f"  {label}", *(f"{count:,} ({count / total:.1%})" for count, total in counts)])
    if len(shown) < len(card.label_names):
        rest = (sum(split.class_counts[len(shown) :]) for split in card.splits.values())
        rows.append([f"  {len(card.label_names) - len(shown)} more classes", *(f"{count:,}" for count in rest)])
    if all(split.num_groups is not None for split in card.splits.values()):
        rows.append(["groups", *(f"{split.num_groups:,}" for split in card.splits.values())])
    rows.append(["repeated texts", *(f"{split.num_repeated:,}" for split in card.splits.values())])
    rows.append(["texts also in train", "", *(f"{card.splits[name].num_in_train:,}" for name in SPLITS[1:])])
    return [["", *card.splits], *rows]


def lengths(card: DataCard) -> list[list[str]]:
    """The distribution of each split's lengths, and what is truncated of it."""
    parts = [split.lengths for split in card.splits.values()]
    rows = [["mean", *(f"{part.mean():,.0f}" for part in parts)]]
    for name, percentile in (("median", 50), ("95th percentile", 95), ("longest", 100)):
        rows.append([name, *(f"{np.percentile(part, percentile):,.0f}" for part in parts)])
    rows.append(["truncated", *(f"{split.share_over(card.max_length):.1%}" for split in card.splits.values())])
    return [["tokens", *card.splits], *rows]


def table_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def histogram(lengths: NDArray[np.int64], max_length: int) -> list[str]:
    """Equal bins up to the 99th percentile, the last one open; a bin that `max_length` truncates is marked."""
    step = max(math.ceil(float(np.percentile(lengths, 99)) / NUM_BINS), 1)
    counts = np.bincount(np.minimum((lengths - 1) // step, NUM_BINS), minlength=NUM_BINS + 1)
    width = len(f"{NUM_BINS * step:,}")
    lines = []
    for place, count in enumerate(counts.tolist()):
        low, high = place * step + 1, (place + 1) * step
        last = place == NUM_BINS
        bounds = f"{low:>{width},} and more" if last else f"{low:>{width},} to {high:>{width},}"
        bar = "#" * math.ceil(count / counts.max() * BAR)
        over = "truncated" if low > max_length else "partly truncated" if last or high > max_length else ""
        mark = f"  {over}" if count and over else ""
        lines.append(f"  {bounds:<{2 * width + 9}} {count:>7,}  {bar}{mark}")
    return lines
