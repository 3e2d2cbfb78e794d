"""Form batches: grouped by length in random order for training, longest documents first for evaluation."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.batch import Batch, Collator, Share
from imdbcls.data.features import Features
from imdbcls.data.masking import VALIDATION, Masking
from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows

# Number of batches in a block. The documents of a block are sorted together by length, so a larger block leaves less
# padding. On IMDB at batch size 16 and 256 or 512 tokens, 1.6 to 2.6 % of the tokens are padding with 64 batches per
# block (16 batches: 3.6 to 5.8 %, 128 batches: 1.3 to 1.8 %). Rounding widths up accounts for 1.3 %.
BATCHES_PER_BLOCK = 64


class TrainBatches:
    """The batches of every training epoch, in an order that depends on `order_seed`.

    Each epoch shuffles the documents and divides them into at least two blocks of up to `BATCHES_PER_BLOCK` batches.
    With `group_by_length`, the documents of each block are sorted by length. Each block is divided into batches, and
    the batches of all blocks are shuffled.

    So with grouping, a document shares a batch with documents of similar length. In each epoch, the other documents of
    its batch are a new random choice among those with the nearest lengths, about 1/64 of the corpus. On IMDB at 512
    tokens, 2 % of the document pairs that share a batch also share a batch in the next epoch (13 % with 4,000
    documents, 28 % with 1,000). Without grouping, a batch has documents of any length, and the three shares are 0.06,
    0.4 and 1.5 %.

    If the number of documents is not a multiple of `batch_size`, a random choice of documents forms one smaller batch.

    `batch_size` is in documents. `max_length` is in tokens, including special tokens. `truncation` is the part of a
    longer document to keep (`head`, `tail` or `head_tail`), or the `Windows` that split it.
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
        self.rank, self.num_processes = 0, 1
        self._masking: Masking | None = None

    @property
    def tokens(self) -> Tokens:
        """The documents' tokens before truncation."""
        return self._collator.tokens

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._collator) / self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (counted from 0), starting at step `start_step` of the epoch.

        The batches depend only on these arguments and on the constructor's arguments, so a resumed run gets the same
        batches.
        """
        return self.collated(self.plan(epoch)[start_step:], epoch)

    def collated(self, plan: Sequence[NDArray[np.int64]], epoch: int) -> Iterator[Batch]:
        """Yield the batches of a plan: the indices of the documents in each batch. `epoch` determines the masks.

        With several processes, yield this process's share of each batch. The shares of a batch differ by at most one
        document. With grouping, they also have similar lengths.
        """
        for rows in plan:
            batch = self._collator.collate(rows) if self.num_processes == 1 else self._share(rows)
            yield batch if self._masking is None else self._masking.mask(batch, epoch)

    def divide_among(self, num_processes: int, rank: int) -> None:
        """Let every later batch be the share of process `rank`."""
        self.num_processes, self.rank = num_processes, rank

    def _share(self, rows: NDArray[np.int64]) -> Batch:
        own = rows[self.rank :: self.num_processes]
        num_tokens = int((self._collator.lengths[rows] * self._collator.num_windows[rows]).sum())
        share = Share(len(rows), num_tokens, weight=int(len(own) > 0))
        return replace(self._collator.collate(own if len(own) else rows[:1]), share=share)

    def read_from(self, features: Features | None) -> None:
        """Attach the cached features to every later batch. With None, later batches have no features."""
        self._collator.features = features

    def mask_with(self, masking: Masking) -> None:
        """Mask tokens in all later batches. Each epoch has different masks."""
        self._masking = masking

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the indices of the documents in each batch of an epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([self.order_seed, epoch]))
        order = rng.permutation(len(self._collator))
        full, left = divmod(len(order), self.batch_size)
        batches = [order[len(order) - left :]] if left else []
        # A single sorted block would put the same documents into the same batches in every epoch.
        num_blocks = max(math.ceil(full / BATCHES_PER_BLOCK), 2)
        for block in np.array_split(order[: full * self.batch_size].reshape(full, self.batch_size), num_blocks):
            rows = block.ravel()
            if self.group_by_length:
                rows = rows[np.argsort(self._collator.lengths[rows], kind="stable")]
            batches.extend(rows.reshape(-1, self.batch_size))
        return [batches[index] for index in rng.permutation(len(batches))]


class Prefetcher:
    """An iterator over batches. `prefetch` collates the next batch before it is needed."""

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


# Default size of an evaluation batch in tokens, including padding. On the CPU, MiniLM evaluates 512 reviews of 128
# tokens in 6.8 s with 1,024 tokens per batch, in 4.4 s with 8,192 and in 4.1 s with 32,768. Batches of 32,768 tokens
# need 0.75 GB, as much memory as training.
EVAL_TOKENS = 16384


class EvalBatches:
    """The batches of one evaluation: every document once, longest first, so that the first batch needs the most memory.

    A batch has at most `batch_size * max_length` tokens, including padding, so it has more than `batch_size` documents
    if the documents are short. With `batch_size=None`, it has at most `EVAL_TOKENS` tokens. All windows of a document
    are in the same batch, even if they exceed this limit.
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
        self._masking: Masking | None = None
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

    def read_from(self, features: Features | None) -> None:
        """Attach the cached features to every later batch. With None, later batches have no features."""
        self._collator.features = features

    def mask_with(self, masking: Masking) -> None:
        """Mask tokens in all later batches. Each evaluation has the same masks."""
        self._masking = masking

    def of_process(self, rank: int, num_processes: int) -> Iterator[Batch]:
        """Yield every `num_processes`-th batch, starting with the batch at index `rank`."""
        for rows in self._plan[rank::num_processes]:
            batch = self._collator.collate(rows)
            yield batch if self._masking is None else self._masking.mask(batch, VALIDATION)

    def single_documents(self, num_documents: int) -> Iterator[Batch]:
        """Yield `num_documents` batches of one document each, without cached features; fewer if the split is smaller.

        The documents are evenly spaced in the order from the longest to the shortest.
        """
        order = np.concatenate(self._plan)
        for index in np.linspace(0, len(order) - 1, min(num_documents, len(order))).astype(int):
            yield replace(self._collator.collate(order[index : index + 1]), features=None)

    @property
    def features(self) -> Features | None:
        """The cached features that later batches have."""
        return self._collator.features

    @property
    def num_documents(self) -> int:
        return len(self._collator)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of all documents, in the order of the split."""
        return self._collator.labels

    def __iter__(self) -> Iterator[Batch]:
        return self.of_process(0, 1)


@dataclass(frozen=True)
class SplitBatches:
    """The batches of the three splits of a run."""

    train: TrainBatches
    validation: EvalBatches
    test: EvalBatches
