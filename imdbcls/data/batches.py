"""Cuts tokens into padded batches: grouped by length for training, longest first for scoring.

B documents of a batch, T tokens of its padded width. Where documents are cut into windows, W of them in a batch, each
window is a row of its own, as if it were a document: token ids and mask then have W rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdbcls.data.features import Features
from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows, window_starts
from imdbcls.fast.unpadded import places_of

# Widths are multiples of this, which matrix kernels like and which bounds the number of shapes.
WIDTH_MULTIPLE = 8
# Batches whose documents are sorted by length together. On IMDB at batch size 16, 64 leave 1.6 to 2.6 %
# padding (16: 3.6 to 5.8 %, 128: 1.3 to 1.8 %; at 256 and 512 tokens), of which 1.3 % is the rounding of widths.
BATCHES_PER_BLOCK = 64


@dataclass(frozen=True)
class Batch:
    """Some documents, padded on the right to one width.

    `input_ids_BT` is int64 with the tokenizer's padding id behind each row, `mask_BT` is True at real tokens (special
    ones included), `labels_B` is int64. `documents_W` is None where each row is a document; else it holds, for each
    row, its document, counted from 0 in this batch (int64, ascending). `rows` are the documents' places in their split.
    `num_tokens` counts the real tokens, of all windows. `places_N` are their places among all places of input_ids_BT,
    row by row, known where the batch is on another device than the CPU. `hidden_BTD` is what a frozen encoder made of
    the rows, where that is kept.
    """

    input_ids_BT: Tensor
    mask_BT: Tensor
    documents_W: Tensor | None
    labels_B: Tensor
    rows: NDArray[np.int64]
    num_tokens: int
    places_N: Tensor | None = None
    hidden_BTD: Tensor | None = None

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.rows)

    @property
    def inputs(self) -> dict[str, Any]:
        """What `Classifier.forward` takes."""
        return {
            "input_ids_BT": self.input_ids_BT,
            "mask_BT": self.mask_BT,
            "documents_W": self.documents_W,
            "num_documents": len(self),
            "places_N": self.places_N,
            "hidden_BTD": self.hidden_BTD,
        }

    def to(self, device: torch.device) -> "Batch":
        """This batch, from the CPU, with its tensors on a device; copies to CUDA, from pinned memory, do not block."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" else tensor
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            input_ids_BT=move(self.input_ids_BT),
            mask_BT=move(self.mask_BT),
            documents_W=None if self.documents_W is None else move(self.documents_W),
            labels_B=move(self.labels_B),
            places_N=move(places_of(self.mask_BT)),
            hidden_BTD=None if self.hidden_BTD is None else move(self.hidden_BTD),
        )

    def split(self, num_rows: int) -> "list[Batch]":
        """Cut into micro-batches of at most `num_rows` rows, each trimmed to its own longest.

        A document's windows stay together, even where they alone are more rows.
        """
        if len(self.mask_BT) <= num_rows:
            return [self]
        rows_of_B = np.ones(len(self), dtype=np.int64)
        if self.documents_W is not None:
            rows_of_B = np.bincount(self.documents_W.numpy())
        ends_B = np.cumsum(rows_of_B)
        lengths_B = self.mask_BT.sum(dim=1)
        parts = []
        first, first_row = 0, 0
        while first < len(self):
            end = max(int(np.searchsorted(ends_B, first_row + num_rows, side="right")), first + 1)
            documents, part = slice(first, end), slice(first_row, int(ends_B[end - 1]))
            width = min(_round_up(int(lengths_B[part].max())), self.mask_BT.shape[1])
            parts.append(
                Batch(
                    self.input_ids_BT[part, :width],
                    self.mask_BT[part, :width],
                    None if self.documents_W is None else self.documents_W[part] - first,
                    self.labels_B[documents],
                    self.rows[documents],
                    int(lengths_B[part].sum()),
                    hidden_BTD=None if self.hidden_BTD is None else self.hidden_BTD[part, :width],
                )
            )
            first, first_row = end, part.stop
        return parts


class TrainBatches:
    """The batches of every training epoch: grouped by length, in an order that only the order seed decides.

    Each epoch the documents are permuted, cut into blocks of `BATCHES_PER_BLOCK` batches (at least two blocks),
    sorted by length within each block, cut into batches, and the batches of all blocks permuted. So a
    document meets, anew in each epoch, others drawn from the 1/64 or so of the corpus nearest to it in
    length, at a random time; what is not random is that lengths within a batch are alike. On IMDB at 512
    tokens, 2 % of the pairs that share a batch do so again in the next epoch (13 % with 4,000 documents,
    28 % with 1,000; ungrouped 0.06, 0.4 and 1.5 %). Where the documents do not fill the last batch, a random
    choice of them forms a smaller one. Without `group_by_length` the blocks stay unsorted: batches of any lengths.

    `batch_size` is in documents, `max_length` and widths in tokens, special ones included. `truncation` is
    `head`, `tail` or `head_tail`, what is kept of a longer document, or the windows that it is cut into.
    """

    def __init__(
        self,
        tokens: Tokens,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        max_length: int,
        order_seed: int,
        group_by_length: bool,
        truncation: str | Windows,
    ) -> None:
        assert len(tokens) == len(labels), f"{len(tokens)} documents with {len(labels)} labels"
        self._cutter = _Cutter(tokens, labels, max_length, truncation)
        self.batch_size = batch_size
        self.order_seed = order_seed
        self.group_by_length = group_by_length

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._cutter) / self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (counted from 0) from its step `start_step` on.

        A pure function of the arguments here and of the constructor: a resumed run continues exactly.
        """
        for rows in self.plan(epoch)[start_step:]:
            yield self._cutter.cut(rows)

    def read_from(self, features: Features) -> None:
        """Give every batch its `hidden_BTD` from here on."""
        self._cutter.features = features

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of an epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([self.order_seed, epoch]))
        order = rng.permutation(len(self._cutter))
        full, left = divmod(len(order), self.batch_size)
        batches = [order[len(order) - left :]] if left else []
        # Two blocks at least: a single one would put the same documents together in every epoch.
        num_blocks = max(math.ceil(full / BATCHES_PER_BLOCK), 2)
        for block in np.array_split(order[: full * self.batch_size].reshape(full, self.batch_size), num_blocks):
            rows = block.ravel()
            if self.group_by_length:
                rows = rows[np.argsort(self._cutter.lengths[rows], kind="stable")]
            batches.extend(rows.reshape(-1, self.batch_size))
        return [batches[place] for place in rng.permutation(len(batches))]


class Ahead:
    """The same batches in the same order, the next of which can be cut before it is asked for."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._next: Batch | None = None

    def cut_next(self) -> None:
        if self._next is None:
            self._next = next(self._batches, None)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.cut_next()
        batch, self._next = self._next, None
        if batch is None:
            raise StopIteration
        return batch


# Of a scoring batch, padding included, where nothing else is asked for. MiniLM on the CPU scores 512 reviews of 128
# tokens in 6.8 s with 1,024 tokens a batch, 4.4 with 8,192, 4.1 with 32,768; the last takes 0.75 GB, as training does.
EVAL_TOKENS = 16384


class EvalBatches:
    """The batches of one scoring pass: every document once, longest first, so that memory peaks at once.

    Batches hold `batch_size` documents of `max_length` tokens, and more of shorter ones: as many as have
    together no more tokens, padding included; None stands for `EVAL_TOKENS`. Each window counts, and a document's
    windows stay together.
    """

    def __init__(
        self,
        tokens: Tokens,
        labels: NDArray[np.int64],
        *,
        batch_size: int | None,
        max_length: int,
        truncation: str | Windows,
    ) -> None:
        assert len(tokens) == len(labels), f"{len(tokens)} documents with {len(labels)} labels"
        self._cutter = _Cutter(tokens, labels, max_length, truncation)
        num_tokens = EVAL_TOKENS if batch_size is None else batch_size * max_length
        order = np.argsort(-self._cutter.lengths, kind="stable")
        self._plan: list[NDArray[np.int64]] = []
        while len(order):
            width = self._cutter.width(order[:1])
            num_rows = np.cumsum(self._cutter.num_windows[order])
            size = max(int(np.searchsorted(num_rows, num_tokens // width, side="right")), 1)
            self._plan.append(order[:size])
            order = order[size:]

    def __len__(self) -> int:
        return len(self._plan)

    def read_from(self, features: Features) -> None:
        """Give every batch its `hidden_BTD` from here on."""
        self._cutter.features = features

    def single_documents(self, num_documents: int) -> Iterator[Batch]:
        """Batches of one document each, taken evenly from the longest to the shortest, for the encoder to read."""
        order = np.concatenate(self._plan)
        for place in np.linspace(0, len(order) - 1, min(num_documents, len(order))).astype(int):
            yield replace(self._cutter.cut(order[place : place + 1]), hidden_BTD=None)

    @property
    def num_documents(self) -> int:
        return len(self._cutter)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._plan:
            yield self._cutter.cut(rows)


class _Cutter:
    """Cuts documents to length, or into windows, and pads them into a batch.

    `lengths` are the tokens of each document's rows, special ones included, and `num_windows` how many rows it has.
    """

    def __init__(self, tokens: Tokens, labels: NDArray[np.int64], max_length: int, truncation: str | Windows) -> None:
        if isinstance(truncation, str) and truncation not in _KEEP:
            raise ValueError(f"truncation={truncation!r} is none of {', '.join(_KEEP)}")
        self._tokens = tokens
        self._labels = labels
        self._keep = _keep_head if isinstance(truncation, Windows) else _KEEP[truncation]
        self._max_length = max_length
        self._budget = max_length - tokens.num_special
        if self._budget < 1:
            raise ValueError(f"max_length={max_length} leaves no room beside {tokens.num_special} special tokens")
        self.lengths = np.minimum(tokens.lengths, max_length)
        self.num_windows = np.ones_like(self.lengths)
        if isinstance(truncation, Windows):
            self.num_windows, sizes = truncation.plan(tokens.lengths - tokens.num_special, self._budget)
            self.lengths = sizes + tokens.num_special
        self.features: Features | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def width(self, rows: NDArray[np.int64]) -> int:
        return min(_round_up(int(self.lengths[rows].max())), self._max_length)

    def cut(self, rows: NDArray[np.int64]) -> Batch:
        num_windows_B = self.num_windows[rows]
        documents_W = np.repeat(np.arange(len(rows)), num_windows_B)
        lengths_W = self.lengths[rows][documents_W]
        width = self.width(rows)
        input_ids_WT = np.full((len(documents_W), width), self._tokens.pad_id, dtype=np.int64)
        pieces = (ids for row in rows for ids in self._pieces(row))
        for place, ids in enumerate(pieces):
            start, end = len(self._tokens.prefix), int(lengths_W[place]) - len(self._tokens.suffix)
            input_ids_WT[place, :start] = self._tokens.prefix
            input_ids_WT[place, start:end] = ids
            input_ids_WT[place, end : lengths_W[place]] = self._tokens.suffix
        return Batch(
            torch.from_numpy(input_ids_WT),
            torch.from_numpy(np.arange(width) < lengths_W[:, None]),
            None if len(documents_W) == len(rows) else torch.from_numpy(documents_W),
            torch.from_numpy(self._labels[rows]),
            rows,
            int(lengths_W.sum()),
            hidden_BTD=None if self.features is None else self.features.cut(rows, lengths_W, width),
        )

    def _pieces(self, row: int) -> list[NDArray[np.integer]]:
        """The token ids of a document's rows, without special tokens."""
        ids = self._tokens.ids[self._tokens.offsets[row] : self._tokens.offsets[row + 1]]
        if self.num_windows[row] > 1:
            size = int(self.lengths[row]) - self._tokens.num_special
            return [ids[start : start + size] for start in window_starts(len(ids), self.num_windows[row], size)]
        return [self._keep(ids, self._budget) if len(ids) > self._budget else ids]


def _keep_head(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    return ids[:budget]


def _keep_tail(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    return ids[-budget:]


def _keep_head_tail(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    """Keep a quarter from the start and the rest from the end (Sun et al. 2019, section 5.3.1: 128 + 382 of 510)."""
    head = max(round(budget * 128 / 510), 1)
    tail = budget - head
    return np.concatenate([ids[:head], ids[len(ids) - tail :]])


_KEEP: dict[str, Callable[[NDArray[np.integer], int], NDArray[np.integer]]] = {
    "head": _keep_head,
    "tail": _keep_tail,
    "head_tail": _keep_head_tail,
}
TRUNCATIONS: Sequence[str] = tuple(_KEEP)


def _round_up(length: int) -> int:
    return -(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
