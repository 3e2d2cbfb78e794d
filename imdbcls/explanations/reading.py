"""The tokens of one text as the model reads them, and the words to which they belong.

Shape suffixes: W windows, T tokens in each padded row, N tokens of the text, without special tokens.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from imdbcls.data.batch import Batch
from imdbcls.data.tokenizer_check import panics_raised
from imdbcls.data.tokens import tokenize_in_memory
from imdbcls.explanations.words import Span, words_of
from imdbcls.finished import FinishedModel


@dataclass(frozen=True)
class Reading:
    """One text as a batch for the model.

    `spans` are the words that the model reads, and `word_WT` is the index of each token's word: -1 for special tokens
    and padding. `unread` are the parts of the text that the model does not read. `num_tokens` counts the tokens of the
    text, and `num_read` counts the tokens that the model reads, both without special tokens.
    """

    batch: Batch
    spans: list[Span]
    word_WT: Tensor
    unread: list[Span]
    num_tokens: int
    num_read: int

    def sum_by_word(self, values_WT: Tensor) -> Tensor:
        """Return, for each word, the sum of the values of its tokens. Special tokens and padding are left out."""
        inside_WT = self.word_WT >= 0
        sums = values_WT.new_zeros(len(self.spans))
        return sums.index_add(0, self.word_WT[inside_WT], values_WT[inside_WT])


def read(text: str, finished: FinishedModel) -> Reading:
    """Return a text as `finished` reads it: truncated or split into windows, as in training."""
    tokenizer = finished.backbone.tokenizer
    label = np.zeros(1, dtype=np.int64)  # a batch needs a label, which has no effect here
    tokens = tokenize_in_memory([text], finished.tokenizer)
    (batch,) = finished.pipeline.eval_batches(tokens, label)
    # The same batch with token positions instead of token ids. Special tokens and padding have the position -1.
    places = replace(
        tokens,
        ids=np.arange(len(tokens.ids)),
        prefix=(-1,) * len(tokens.prefix),
        suffix=(-1,) * len(tokens.suffix),
        pad_id=-1,
    )
    (placed,) = finished.pipeline.eval_batches(places, label)
    place_WT = placed.input_ids_BT

    with panics_raised():
        encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True)
    assert np.array_equal(encoded["input_ids"], tokens.ids), "the tokens with offsets differ from the run's tokens"
    spans, word_N = words_of(text, encoded["offset_mapping"])
    num_tokens = len(word_N)
    is_read_N = np.zeros(num_tokens, dtype=bool)
    is_read_N[place_WT[place_WT >= 0].numpy()] = True
    words = np.asarray(word_N, dtype=np.int64)
    read_words = np.unique(words[is_read_N])
    unread_words = np.setdiff1d(words, read_words)
    word_WT = torch.full_like(place_WT, -1)
    word_WT[place_WT >= 0] = torch.from_numpy(np.searchsorted(read_words, words))[place_WT[place_WT >= 0]]
    return Reading(
        batch=batch,
        spans=[spans[word] for word in read_words],
        word_WT=word_WT,
        unread=joined([spans[word] for word in unread_words], unread_words),
        num_tokens=num_tokens,
        num_read=int(is_read_N.sum()),
    )


def joined(spans: list[Span], indices: np.ndarray) -> list[Span]:
    """Join the spans of consecutive words."""
    found: list[Span] = []
    for position, (start, end) in enumerate(spans):
        if position and indices[position] == indices[position - 1] + 1:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
