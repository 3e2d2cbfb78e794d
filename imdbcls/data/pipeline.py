"""Turn the documents of a run into tokens and batches, and count unknown and truncated tokens."""

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
    """The settings that turn documents into tokens and batches; `TrainBatches` and `EvalBatches` describe them.

    `max_length` is in tokens, including special tokens. `cache_dir` is the folder for cached tokens; None is the
    default folder.
    """

    max_length: int
    truncation: str | Windows
    batch_size: int
    eval_batch_size: int | None
    order_seed: int
    group_by_length: bool
    cache_dir: str | None

    def tokenize(self, corpus: Corpus, tokenizer: Any) -> dict[str, Tokens]:
        """Return the tokens of each split; `tokenizer` is a transformers tokenizer."""
        return {
            split: tokenize(documents, tokenizer, cache_dir=self.cache_dir)
            for split, documents in corpus.splits.items()
        }

    def batches(self, corpus: Corpus, tokens: Mapping[str, Tokens]) -> SplitBatches:
        """Return training batches for train and evaluation batches for the other splits."""
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
        """Return evaluation batches for some documents."""
        return EvalBatches(
            tokens,
            labels,
            batch_size=self.eval_batch_size,
            max_length=self.max_length,
            truncation=self.truncation,
        )

    def count(self, tokens: Tokens, tokenizer: Any) -> TokenCounts:
        """Count the tokens of some documents, including unknown tokens and tokens that the encoder does not read."""
        return count_tokens(tokens, tokenizer, self.max_length, self.truncation)
