"""The data card: statistics of a dataset after it is read, split, tokenized and truncated as in a run."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.documents import Corpus, Documents
from imdbcls.data.pipeline import Pipeline
from imdbcls.data.splits import text_keys
from imdbcls.data.token_counts import TokenCounts, losses, sum_of
from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows
from imdbcls.printable import printable_line
from imdbcls.runtime.text_table import text_table

NUM_BINS = 12  # bins in the histogram of lengths
LINE_WIDTH = 120  # characters
MAX_BAR_WIDTH = 40  # characters
MAX_CLASSES_LISTED = 20
DOCUMENTS_LOST = (  # rows of the card, and their keys in TokenCounts
    ("documents without a token", "no_tokens"),
    ("documents with only unknown tokens", "wholly_unknown"),
    ("documents at least half unknown", "mostly_unknown"),
)


@dataclass(frozen=True)
class SplitCard:
    """Statistics of one split.

    `lengths` is the number of tokens in each document before truncation, including special tokens; shape
    (num_documents,). `num_windows` is the number of windows that are needed to read each document completely, with
    the same shape; None if long documents are truncated instead. `num_with_gaps` counts the documents whose windows do
    not cover all tokens.
    """

    class_counts: tuple[int, ...]
    lengths: NDArray[np.int64]
    num_windows: NDArray[np.int64] | None
    num_with_gaps: int
    num_clusters: int | None  # films, authors, …; None if the data has no clusters
    num_repeated: int  # documents whose text occurs earlier in the same split
    num_in_train: int  # documents whose text occurs in train; 0 for train itself
    counts: TokenCounts  # counts of tokens and of documents

    @property
    def num_documents(self) -> int:
        return len(self.lengths)

    def share_over(self, max_length: int) -> float:
        """Return the fraction of documents with more than `max_length` tokens."""
        return float((self.lengths > max_length).mean())


@dataclass(frozen=True)
class DataCard:
    """Statistics of a dataset under one config. `splits` has the keys train, validation and test."""

    name: str
    backbone: str
    max_length: int
    truncation: str | Windows
    label_names: tuple[str, ...]
    splits: Mapping[str, SplitCard]
    split_hash: str
    notes: tuple[str, ...]


def card_of(
    corpus: Corpus, tokens: Mapping[str, Tokens], tokenizer: Any, pipeline: Pipeline, name: str, backbone: str
) -> DataCard:
    """Return the data card of a corpus.

    `tokens` has the tokens of each split. `tokenizer` is the transformers tokenizer that made them. `name` and
    `backbone` are the names of the data and of the encoder in the card's title.
    """
    max_length, truncation = pipeline.max_length, pipeline.truncation
    train_keys = text_keys(corpus.train.texts, corpus.train.pairs)
    splits = {}
    for split, documents in corpus.splits.items():
        split_tokens = tokens[split]
        num_windows, num_with_gaps = None, 0
        if isinstance(truncation, Windows):
            lengths, budget = split_tokens.lengths - split_tokens.num_special, max_length - split_tokens.num_special
            num_windows = truncation.needed(lengths, budget)
            num_with_gaps = int((lengths > truncation.max_windows * budget).sum())
        seen = train_keys[:0] if split == "train" else train_keys
        counts = pipeline.count(split_tokens, tokenizer)
        card = split_card(documents, split_tokens.lengths, corpus, seen, counts)
        splits[split] = replace(card, num_windows=num_windows, num_with_gaps=num_with_gaps)
    return DataCard(name, backbone, max_length, truncation, corpus.label_names, splits, corpus.split_hash, corpus.notes)


def split_card(
    documents: Documents,
    lengths: NDArray[np.int64],
    corpus: Corpus,
    train_keys: NDArray[np.bytes_],
    counts: TokenCounts,
) -> SplitCard:
    keys = text_keys(documents.texts, documents.pairs)
    return SplitCard(
        class_counts=tuple(np.bincount(documents.labels, minlength=len(corpus.label_names)).tolist()),
        lengths=lengths,
        num_windows=None,
        num_with_gaps=0,
        num_clusters=None if documents.clusters is None else len(set(documents.clusters)),
        num_repeated=len(keys) - len(np.unique(keys)),
        num_in_train=int(np.isin(keys, train_keys).sum()),
        counts=counts,
    )


def card_tables(card: DataCard) -> dict[str, tuple[list[str | int], list[list[str | int]]]]:
    """Return the tables of the card, keyed by name. Each table is a tuple (column names, rows)."""
    all_lengths = np.concatenate([split.lengths for split in card.splits.values()])
    bins: list[list[str | int]] = [[bounds.strip(), count] for bounds, count, _ in bins_of(all_lengths)]
    tables: dict[str, tuple[list[str | int], list[list[str | int]]]] = {"histogram": (["tokens", "documents"], bins)}
    for name, (header, *rows) in (("sizes", sizes(card)), ("lengths", lengths(card))):
        tables[name] = ([header[0] or "split", *header[1:]], [[cell.strip() for cell in row] for row in rows])
    return tables


def card_text(card: DataCard, table_width: int | None = None) -> str:
    """Return the card as plain text.

    The lines of tables and notes have at most `table_width` characters, except for long numbers and paths. With None,
    only the lines of notes are limited, to `LINE_WIDTH` characters.
    """
    notes = [
        truncation_note(card),
        *losses_of(card),
        *cluster_note(card),
        *card.notes,
        f"Split hash {card.split_hash}: runs with the same split hash use the same documents in the same splits.",
    ]
    tables = [text_table(rows, header, width=table_width) for header, *rows in (sizes(card), lengths(card))]
    return "\n".join(
        [
            f"data={printable_line(card.name)}, tokens of backbone={card.backbone}, max_length={card.max_length}",
            "",
            tables[0],
            "",
            tables[1],
            "",
            f"Lengths of all {sum(split.num_documents for split in card.splits.values()):,} documents in tokens:",
            *histogram(
                np.concatenate([split.lengths for split in card.splits.values()]),
                card.max_length,
                "in windows" if isinstance(card.truncation, Windows) else "truncated",
            ),
            "",
            *(line for note in notes for line in wrapped(note, LINE_WIDTH if table_width is None else table_width)),
        ]
    )


def wrapped(note: str, width: int) -> list[str]:
    """Return the lines of a note. Long words, such as paths without spaces, are never divided."""
    return textwrap.wrap(note, width, break_long_words=False, break_on_hyphens=False)


def losses_of(card: DataCard) -> Iterator[str]:
    truncation = card.truncation if isinstance(card.truncation, str) else "windows"
    return losses(sum_of(split.counts for split in card.splits.values()), card.max_length, truncation)


def cluster_note(card: DataCard) -> Iterator[str]:
    """Yield sentences on what clusters are and what they change, if all splits have clusters."""
    if has_clusters(card):
        yield (
            "Clusters: groups of documents that belong together, such as all reviews of one film. Splits that are made "
            "from train keep each cluster in one split. compare treats clusters, not documents, as independent."
        )


def has_clusters(card: DataCard) -> bool:
    return all(split.num_clusters is not None for split in card.splits.values())


def sizes(card: DataCard) -> list[list[str]]:
    """Return a table of the documents, classes, clusters and duplicates in each split. The first row is the header."""
    listed = card.label_names[:MAX_CLASSES_LISTED]
    rows = [["documents", *(f"{split.num_documents:,}" for split in card.splits.values())]]
    for index, label in enumerate(listed):
        counts = ((split.class_counts[index], split.num_documents) for split in card.splits.values())
        rows.append([f"  {printable_line(label)}", *(f"{count:,} ({count / total:.1%})" for count, total in counts)])
    if len(listed) < len(card.label_names):
        rest = (sum(split.class_counts[len(listed) :]) for split in card.splits.values())
        rows.append([f"  {len(card.label_names) - len(listed)} more classes", *(f"{count:,}" for count in rest)])
    if has_clusters(card):
        rows.append(["clusters", *(f"{split.num_clusters:,}" for split in card.splits.values())])
    rows.append(["repeated texts", *(f"{split.num_repeated:,}" for split in card.splits.values())])
    rows.append(
        ["texts also in train", "", *(f"{card.splits[name].num_in_train:,}" for name in ("validation", "test"))]
    )
    return [["", *card.splits], *rows]


def lengths(card: DataCard) -> list[list[str]]:
    """Return a table of the lengths, truncation and unknown tokens in each split. The first row is the header."""
    parts = [split.lengths for split in card.splits.values()]
    rows = [["mean", *(f"{part.mean():,.0f}" for part in parts)]]
    for name, percentile in (("shortest", 0), ("median", 50), ("95th percentile", 95), ("longest", 100)):
        rows.append([name, *(f"{np.percentile(part, percentile):,.0f}" for part in parts)])
    over = [f"{split.share_over(card.max_length):.1%}" for split in card.splits.values()]
    if not isinstance(card.truncation, Windows):
        rows.append(["truncated", *over])
    else:
        most = card.truncation.max_windows
        needed = [split.num_windows for split in card.splits.values() if split.num_windows is not None]
        read = [np.minimum(part, most) for part in needed]
        rows.append(["in windows", *over])
        rows.append(["windows per document", *(f"{part.mean():.2f}" for part in read)])
        rows.append(["most windows", *(f"{part.max():,}" for part in read)])
        rows.append(
            ["read with gaps", *(share(split.num_with_gaps, split.num_documents) for split in card.splits.values())]
        )
    counts = [split.counts for split in card.splits.values()]
    rows.append(["tokens not read", *(share(part.cut_tokens, part.tokens) for part in counts)])
    rows.append(["unknown tokens", *(share(part.unknown_tokens, part.tokens) for part in counts)])
    for name, key in DOCUMENTS_LOST:
        found = [getattr(part, key) for part in counts]
        rows.append([name, *(f"{count:,}" for count in found)])
    return [["tokens", *card.splits], *rows]


def share(part: int, total: int) -> str:
    return f"{part / max(total, 1):.1%}"


def truncation_note(card: DataCard) -> str:
    """Return a note on how documents of more than `max_length` tokens are read."""
    if not isinstance(card.truncation, Windows):
        return f"Longer documents are truncated to {card.max_length} tokens (data.truncation={card.truncation})."
    return (
        f"Longer documents are read in windows of up to {card.max_length} tokens (data.truncation=windows). Documents "
        f"that need more than {card.truncation.max_windows} windows (data.max_windows) may be read with gaps."
    )


def histogram(lengths: NDArray[np.int64], max_length: int, fate: str) -> list[str]:
    """Return one line with a bar per bin.

    A bin for lengths over `max_length` is marked with `fate`, such as "truncated". A bin that is also for shorter
    lengths is marked with "partly" and `fate`. An empty bin has no mark.
    """
    bins = bins_of(lengths)
    most = max(count for _, count, _ in bins)
    column = max(len(bounds) for bounds, _, _ in bins)
    lines = []
    for bounds, count, (low, high) in bins:
        bar = "#" * math.ceil(count / most * MAX_BAR_WIDTH)
        over = fate if low > max_length else f"partly {fate}" if high is None or high > max_length else ""
        mark = f"  {over}" if count and over else ""
        lines.append(f"  {bounds:<{column}} {count:>7,}  {bar}{mark}")
    return lines


def bins_of(lengths: NDArray[np.int64]) -> list[tuple[str, int, tuple[int, int | None]]]:
    """Divide lengths into bins of equal width up to the 99th percentile of the lengths, and an open last bin.

    Each bin is a tuple (bounds as a string, number of documents, bounds in tokens). The upper bound of the last bin is
    None.
    """
    step = max(math.ceil(float(np.percentile(lengths, 99)) / NUM_BINS), 1)
    counts = np.bincount(np.minimum((lengths - 1) // step, NUM_BINS), minlength=NUM_BINS + 1)
    width = len(f"{NUM_BINS * step:,}")
    bins: list[tuple[str, int, tuple[int, int | None]]] = []
    for index, count in enumerate(counts.tolist()):
        low, high = index * step + 1, (index + 1) * step
        if index == NUM_BINS:
            bins.append((f"{low:>{width},} and more", count, (low, None)))
        else:
            bins.append((f"{low:>{width},} to {high:>{width},}", count, (low, high)))
    return bins
