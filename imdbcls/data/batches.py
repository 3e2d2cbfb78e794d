"""Cuts tokens into padded batches: grouped by length for training, longest first for scoring.

B documents of a batch, T tokens of its padded width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdbcls.data.features import Features
from imdbcls.data.tokens import Tokens

# Widths are multiples of this, which matrix kernels like and which bounds the number of shapes.
WIDTH_MULTIPLE = 8
# Batches whose documents are sorted by length together. On IMDB at batch size 16, 64 leave 1.6 to 2.6 %
# padding (16: 3.6 to 5.8 %, 128: 1.3 to 1.8 %; at 256 and 512 tokens), of which 1.3 % is the rounding of widths.
BATCHES_PER_BLOCK = 64


@dataclass(frozen=True)
class Batch:
    """Some documents, padded on the right to one width.

    `input_ids_BT` is int64 with the tokenizer's padding id behind each document, `mask_BT` is True at real
    tokens (special ones included), `labels_B` is int64. `rows` are the documents' places in their split.
    `num_tokens` counts the real tokens. `hidden_BTD` is what a frozen encoder makes of them, where that is kept.
    """

    input_ids_BT: Tensor
    mask_BT: Tensor
    labels_B: Tensor
    rows: NDArray[np.int64]
    num_tokens: int
    hidden_BTD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on a device; copies from pinned memory do not block."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" else tensor
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            input_ids_BT=move(self.input_ids_BT),
            mask_BT=move(self.mask_BT),
            labels_B=move(self.labels_B),
            hidden_BTD=None if self.hidden_BTD is None else move(self.hidden_BTD),
        )

    def split(self, num_documents: int) -> "list[Batch]":
        """Cut into micro-batches of `num_documents` (the last may be smaller), each trimmed to its own longest row."""
        if len(self) <= num_documents:
            return [self]
        lengths_B = self.mask_BT.sum(dim=1)
        parts = []
        for start in range(0, len(self), num_documents):
            part = slice(start, start + num_documents)
            width = min(_round_up(int(lengths_B[part].max())), self.mask_BT.shape[1])
            parts.append(
                Batch(
                    self.input_ids_BT[part, :width],
                    self.mask_BT[part, :width],
                    self.labels_B[part],
                    self.rows[part],
                    int(lengths_B[part].sum()),
                    None if self.hidden_BTD is None else self.hidden_BTD[part, :width],
                )
            )
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
    `head`, `tail` or `head_tail`: what is kept of a longer document.
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
        truncation: str,
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


class EvalBatches:
    """The batches of one scoring pass: every document once, longest first, so that memory peaks at once.

    Batches hold `batch_size` documents of `max_length` tokens, and more of shorter ones: as many as have
    together no more tokens, padding included.
    """

    def __init__(
        self,
        tokens: Tokens,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        max_length: int,
        truncation: str,
    ) -> None:
        assert len(tokens) == len(labels), f"{len(tokens)} documents with {len(labels)} labels"
        self._cutter = _Cutter(tokens, labels, max_length, truncation)
        order = np.argsort(-self._cutter.lengths, kind="stable")
        self._plan: list[NDArray[np.int64]] = []
        while len(order):
            width = self._cutter.width(order[:1])
            size = max(batch_size * max_length // width, 1)
            self._plan.append(order[:size])
            order = order[size:]

    def __len__(self) -> int:
        return len(self._plan)

    def read_from(self, features: Features) -> None:
        """Give every batch its `hidden_BTD` from here on."""
        self._cutter.features = features

    def single_documents(self, num_documents: int) -> Iterator[Batch]:
        """Batches of one document each, taken evenly from the longest to the shortest."""
        order = np.concatenate(self._plan)
        for place in np.linspace(0, len(order) - 1, min(num_documents, len(order))).astype(int):
            yield self._cutter.cut(order[place : place + 1])

    @property
    def num_documents(self) -> int:
        return len(self._cutter)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._plan:
            yield self._cutter.cut(rows)


class _Cutter:
    """Cuts documents to length and pads them into a batch."""

    def __init__(self, tokens: Tokens, labels: NDArray[np.int64], max_length: int, truncation: str) -> None:
        if truncation not in _KEEP:
            raise ValueError(f"truncation={truncation!r} is none of {', '.join(_KEEP)}")
        self._tokens = tokens
        self._labels = labels
        self._keep = _KEEP[truncation]
        self._max_length = max_length
        self._budget = max_length - tokens.num_special
        if self._budget < 1:
            raise ValueError(f"max_length={max_length} leaves no room beside {tokens.num_special} special tokens")
        self.lengths = np.minimum(tokens.lengths, max_length)
        self.features: Features | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def width(self, rows: NDArray[np.int64]) -> int:
        return min(_round_up(int(self.lengths[rows].max())), self._max_length)

    def cut(self, rows: NDArray[np.int64]) -> Batch:
        lengths_B = self.lengths[rows]
        width = self.width(rows)
        input_ids_BT = np.full((len(rows), width), self._tokens.pad_id, dtype=np.int64)
        for place, row in enumerate(rows):
            ids = self._tokens.ids[self._tokens.offsets[row] : self._tokens.offsets[row + 1]]
            if len(ids) > self._budget:
                ids = self._keep(ids, self._budget)
            start, end = len(self._tokens.prefix), int(lengths_B[place]) - len(self._tokens.suffix)
            input_ids_BT[place, :start] = self._tokens.prefix
            input_ids_BT[place, start:end] = ids
            input_ids_BT[place, end : lengths_B[place]] = self._tokens.suffix
        return Batch(
            torch.from_numpy(input_ids_BT),
            torch.from_numpy(np.arange(width) < lengths_B[:, None]),
            torch.from_numpy(self._labels[rows]),
            rows,
            int(lengths_B.sum()),
            None if self.features is None else self.features.cut(rows, width),
        )


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
