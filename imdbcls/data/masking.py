"""Mask tokens for a masked language model (Devlin et al. 2019, section 3.1).

Shape suffixes: W rows of a batch, T tokens, M masked tokens, V tokens in the vocabulary.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imdbcls.data.batch import Batch, MaskedTokens
from imdbcls.errors import UserError

VALIDATION = -1  # the `epoch` argument for validation documents, whose masks are the same in every epoch
# The share of the chosen tokens that become the mask token, and the share that become a random token. The remaining
# chosen tokens keep their id. The model predicts all chosen tokens.
MASKED, RANDOM = 0.8, 0.1
# The first character of a token that begins a word, keyed by the type of the tokenizer's pre-tokenizer or decoder.
SPACES = {"ByteLevel": "Ġ", "Metaspace": "▁"}


@dataclass(frozen=True)
class Masking:
    """Choose tokens of each document and replace them.

    `probability` is the share of words to choose. The number of chosen words is rounded up or down at random, so that
    the expected share is exact. The number is at least 1, so the share is larger in very short documents. The model
    predicts all tokens of a chosen word. `begins_word_V` is True for tokens that begin a word; None if every token is a
    word. `random_ids` are the ids that may replace a token.

    The masks of a document depend only on `seed`, the epoch and the document's index in its split, so a resumed run
    gets the same masks. `num_prefix` and `num_suffix` count the special tokens around a document, which are never
    chosen.
    """

    probability: float
    begins_word_V: NDArray[np.bool_] | None
    mask_id: int
    random_ids: NDArray[np.int64]
    seed: int
    num_prefix: int
    num_suffix: int

    def mask(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with masked tokens. `epoch` counts from 0, or is `VALIDATION`."""
        ids_WT, lengths_W = batch.input_ids_BT.numpy().copy(), batch.mask_BT.sum(dim=1).tolist()
        documents_W = np.arange(len(batch)) if batch.documents_W is None else batch.documents_W.numpy()
        windows_W = np.arange(len(documents_W)) - np.searchsorted(documents_W, documents_W)
        columns, labels = [], []
        for ids_T, length, document, window in zip(ids_WT, lengths_W, documents_W, windows_W, strict=True):
            rng = np.random.default_rng([self.seed, epoch - VALIDATION, batch.rows[document], window])
            own_ids_T = ids_T[self.num_prefix : length - self.num_suffix]  # a view: `_replace` changes ids_WT
            chosen_M = self._choose(own_ids_T, rng)
            columns.append(chosen_M + self.num_prefix)
            labels.append(own_ids_T[chosen_M])
            self._replace(own_ids_T, chosen_M, rng)
        rows_M = np.repeat(np.arange(len(columns)), [len(each) for each in columns])
        masked = (torch.from_numpy(each) for each in (rows_M, np.concatenate(columns), np.concatenate(labels)))
        return replace(batch, input_ids_BT=torch.from_numpy(ids_WT), masked=MaskedTokens(*masked))

    def _choose(self, ids_T: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the indices of the tokens to predict."""
        if len(ids_T) == 0:
            return np.zeros(0, dtype=np.int64)
        word_T = np.arange(len(ids_T))
        if self.begins_word_V is not None:
            word_T = np.cumsum(self.begins_word_V[ids_T])
            word_T -= word_T[0]  # a truncated document may begin within a word
        num_words = int(word_T[-1]) + 1
        num_chosen = max(int(self.probability * num_words + rng.random()), 1)
        is_chosen = np.zeros(num_words, dtype=bool)
        is_chosen[rng.permutation(num_words)[:num_chosen]] = True
        return np.flatnonzero(is_chosen[word_T])

    def _replace(self, ids_T: NDArray[np.int64], chosen_M: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Change the chosen tokens in place: 80 % to the mask token and 10 % to a random token; 10 % stay the same."""
        draws_M = rng.random(len(chosen_M))
        random_M = self.random_ids[rng.integers(len(self.random_ids), size=len(chosen_M))]
        replaced_M = np.where(draws_M < MASKED, self.mask_id, random_M)
        ids_T[chosen_M] = np.where(draws_M < MASKED + RANDOM, replaced_M, ids_T[chosen_M])


def masking_of(
    tokenizer: Any, *, name: str, probability: float, whole_words: bool, seed: int, num_prefix: int, num_suffix: int
) -> Masking:
    """Build the masking for a backbone's tokenizer; `name` is the backbone's name, for messages.

    Raise UserError if the tokenizer has no mask token, or if `whole_words` is true and the tokenizer does not mark the
    tokens that begin a word.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"backbone={name} cannot be pretrained: its tokenizer has no mask token. Use an encoder that has "
            "one, such as bert-base, roberta-base or minilm."
        )
    vocabulary, special = tokenizer.get_vocab(), {*tokenizer.all_special_ids}
    return Masking(
        probability=probability,
        begins_word_V=word_beginnings(tokenizer, name) if whole_words else None,
        mask_id=int(tokenizer.mask_token_id),
        random_ids=np.array(sorted({*vocabulary.values()} - special), dtype=np.int64),
        seed=seed,
        num_prefix=num_prefix,
        num_suffix=num_suffix,
    )


def word_beginnings(tokenizer: Any, name: str) -> NDArray[np.bool_] | None:
    """Return begins_word_V: whether each token of the vocabulary begins a word. Return None if all tokens do.

    WordPiece marks the tokens that continue a word (`##ing`). Byte-level BPE and SentencePiece mark a space before the
    token, so punctuation belongs to the word before it, as in fairseq. Raise UserError for other tokenizers.
    """
    described = tokenizer.backend_tokenizer.to_str()
    model, vocabulary = json.loads(described)["model"], tokenizer.get_vocab()
    if model["type"] == "WordLevel":
        return None
    space = next((mark for kind, mark in SPACES.items() if f'"type":"{kind}"' in described), None)
    if model["type"] == "WordPiece":
        beginnings = {token: not token.startswith(model["continuing_subword_prefix"]) for token in vocabulary}
    elif space is not None:
        beginnings = {token: token.startswith(space) for token in vocabulary}
    else:
        raise UserError(
            f"masking.whole_words=true: the tokenizer of backbone={name} does not mark where words begin. Set "
            "masking.whole_words=false."
        )
    begins_word_V = np.ones(max(vocabulary.values()) + 1, dtype=bool)
    begins_word_V[[vocabulary[token] for token in beginnings]] = list(beginnings.values())
    return begins_word_V
