"""Which documents share a batch, and when: grouped by length for training, longest first for scoring."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.batch import Batch, Collator
from imdbcls.data.features import Features
from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows

# Batches whose documents are sorted by length together. On IMDB at batch size 16, 64 leave 1.6 to 2.6 %
# padding (16: 3.6 to 5.8 %, 128: 1.3 to 1.8 %; at 256 and 512 tokens), of which 1.3 % is the rounding of widths.
BATCHES_PER_BLOCK = 64


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
        self._collator = Collator(tokens, labels, max_length, truncation)
        self.batch_size = batch_size
        self.order_seed = order_seed
        self.group_by_length = group_by_length

    @property
    def tokens(self) -> Tokens:
        """The documents' tokens before truncation."""
        return self._collator.tokens

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._collator) / self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (counted from 0) from its step `start_step` on.

        A pure function of the arguments here and of the constructor: a resumed run continues exactly.
        """
        for rows in self.plan(epoch)[start_step:]:
            yield self._collator.collate(rows)

    def read_from(self, features: Features) -> None:
        """Give every batch its `features` from now on."""
        self._collator.features = features

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of an epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([self.order_seed, epoch]))
        order = rng.permutation(len(self._collator))
        full, left = divmod(len(order), self.batch_size)
        batches = [order[len(order) - left :]] if left else []
        # Two blocks at least: a single one would put the same documents together in every epoch.
        num_blocks = max(math.ceil(full / BATCHES_PER_BLOCK), 2)
        for block in np.array_split(order[: full * self.batch_size].reshape(full, self.batch_size), num_blocks):
            rows = block.ravel()
            if self.group_by_length:
                rows = rows[np.argsort(self._collator.lengths[rows], kind="stable")]
            batches.extend(rows.reshape(-1, self.batch_size))
        return [batches[place] for place in rng.permutation(len(batches))]


class Prefetcher:
    """The same batches in the same order, the next of which can be cut before it is asked for."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._next: Batch | None = None

    def prefetch(self) -> None:
        if self._next is None:
            self._next = next(self._batches, None)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.prefetch()
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
        self._collator = Collator(tokens, labels, max_length, truncation)
        num_tokens = EVAL_TOKENS if batch_size is None else batch_size * max_length
        order = np.argsort(-self._collator.lengths, kind="stable")
        self._plan: list[NDArray[np.int64]] = []
        while len(order):
            width = self._collator.width(order[:1])
            num_rows = np.cumsum(self._collator.num_windows[order])
            size = max(int(np.searchsorted(num_rows, num_tokens // width, side="right")), 1)
            self._plan.append(order[:size])
            order = order[size:]

    def __len__(self) -> int:
        return len(self._plan)

    def read_from(self, features: Features) -> None:
        """Give every batch its `features` from now on."""
        self._collator.features = features

    def single_documents(self, num_documents: int) -> Iterator[Batch]:
        """Batches of one document each, taken evenly from the longest to the shortest, for the encoder to read."""
        order = np.concatenate(self._plan)
        for place in np.linspace(0, len(order) - 1, min(num_documents, len(order))).astype(int):
            yield replace(self._collator.collate(order[place : place + 1]), features=None)

    @property
    def num_documents(self) -> int:
        return len(self._collator)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of all documents, in their order."""
        return self._collator.labels

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._plan:
            yield self._collator.collate(rows)


@dataclass(frozen=True)
class SplitBatches:
    """The batches of the three splits of a run."""

    train: TrainBatches
    validation: EvalBatches
    test: EvalBatches
