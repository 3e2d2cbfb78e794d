"""From documents to the batches of a run: tokens, batches, and what is lost on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.batches import EvalBatches, SplitBatches, TrainBatches
from imdbcls.data.documents import Corpus
from imdbcls.data.token_counts import TokenCounts, count_tokens
from imdbcls.data.tokens import Tokens, tokenize
from imdbcls.data.windows import Windows


@dataclass(frozen=True)
class Pipeline:
    """How documents become tokens and batches; see `TrainBatches` and `EvalBatches` for the settings.

    `max_length` is in tokens, special ones included. `cache_dir` keeps the tokens, None for the default folder. A
    tokenizer is one of transformers.
    """

    max_length: int
    truncation: str | Windows
    batch_size: int
    eval_batch_size: int | None
    order_seed: int
    group_by_length: bool
    cache_dir: str | None

    def tokenize(self, corpus: Corpus, tokenizer: Any) -> dict[str, Tokens]:
        """Return the tokens of each split."""
        return {
            split: tokenize(documents, tokenizer, cache_dir=self.cache_dir)
            for split, documents in corpus.splits.items()
        }

    def batches(self, corpus: Corpus, tokens: Mapping[str, Tokens]) -> SplitBatches:
        """Return the batches of each split: of training for train, of scoring for the others."""
        train = TrainBatches(
            tokens["train"],
            corpus.train.labels,
            batch_size=self.batch_size,
            max_length=self.max_length,
            order_seed=self.order_seed,
            group_by_length=self.group_by_length,
            truncation=self.truncation,
        )
        validation = self.eval_batches(tokens["validation"], corpus.validation.labels)
        return SplitBatches(train, validation, self.eval_batches(tokens["test"], corpus.test.labels))

    def eval_batches(self, tokens: Tokens, labels: NDArray[np.int64]) -> EvalBatches:
        """Return the batches that score some documents."""
        return EvalBatches(
            tokens,
            labels,
            batch_size=self.eval_batch_size,
            max_length=self.max_length,
            truncation=self.truncation,
        )

    def count(self, tokens: Tokens, tokenizer: Any) -> TokenCounts:
        """Count the tokens of some documents, and what the tokenizer and `max_length` leave out."""
        return count_tokens(tokens, tokenizer, self.max_length, self.truncation)
