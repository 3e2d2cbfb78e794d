"""Count the tokens that are unknown or that the encoder does not read, and warn if they are many."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows

CHUNK = 2**24  # tokens to search at a time
# Shares above the following constants cause a warning.
# With a subword tokenizer for the language of the documents, at most 0.1 % of the tokens are unknown. With a vocabulary
# of 2,000 words, 7 to 12 % of the tokens of the sample corpus are unknown, and a model still learns.
UNKNOWN_TOKENS = 0.15
UNKNOWN_DOCUMENTS = 0.01  # documents of mostly unknown tokens; guessing their labels costs up to one point of accuracy
# In IMDB, 14 % of the documents are longer than 512 tokens, the usual max_length, and about 40 % are longer than 256.
TRUNCATED_DOCUMENTS = 0.5
CUT_TOKENS = 0.25

_ONE_END = (
    "max_length or data.truncation=windows. In the same training time, data.truncation=head_tail reads the beginning "
    "and the end of each document"
)
READ_MORE = {  # the advice for each value of data.truncation
    "head": _ONE_END,
    "tail": _ONE_END,
    "head_tail": "max_length or data.truncation=windows",
    "windows": "max_length or data.max_windows",
}


@dataclass(frozen=True)
class TokenCounts:
    """Counts of the tokens in some documents, without special tokens."""

    documents: int
    tokens: int
    shortest: int  # number of tokens in the shortest document
    no_tokens: int  # documents without any token after tokenization
    unknown_tokens: int
    wholly_unknown: int  # documents with only unknown tokens
    mostly_unknown: int  # documents in which at least half of the tokens are unknown
    truncated: int  # documents that the encoder does not read completely
    cut_tokens: int  # tokens that the encoder does not read

    def __add__(self, other: Self) -> "TokenCounts":
        summed = {key: value + getattr(other, key) for key, value in asdict(self).items()}
        return TokenCounts(**summed | {"shortest": min(self.shortest, other.shortest)})


def count_tokens(tokens: Tokens, tokenizer: Any, max_length: int, truncation: str | Windows) -> TokenCounts:
    """Count the tokens of some documents, including unknown tokens and tokens that the encoder does not read."""
    lengths, budget = tokens.text_lengths, max_length - tokens.num_special
    unknown = unknown_tokens(tokens.ids, tokens.offsets, tokenizer.unk_token_id)
    if tokens.second is not None:
        unknown = unknown + unknown_tokens(tokens.second.ids, tokens.second.offsets, tokenizer.unk_token_id)
    cut = cut_tokens(lengths, budget, truncation)
    return TokenCounts(
        documents=len(lengths),
        tokens=int(lengths.sum()),
        shortest=int(lengths.min(initial=np.iinfo(np.int64).max)),
        no_tokens=int((lengths == 0).sum()),
        unknown_tokens=int(unknown.sum()),
        wholly_unknown=int(((unknown == lengths) & (lengths > 0)).sum()),
        mostly_unknown=int(((2 * unknown >= lengths) & (lengths > 0)).sum()),
        truncated=int((cut > 0).sum()),
        cut_tokens=int(cut.sum()),
    )


def cut_tokens(lengths: NDArray[np.int64], budget: int, truncation: str | Windows) -> NDArray[np.int64]:
    """Return, for each document, the number of tokens that the encoder does not read.

    `budget` is the largest number of tokens in an input. `lengths` and `budget` exclude special tokens.
    """
    read = np.full(len(lengths), budget)
    if isinstance(truncation, Windows):  # all tokens are read, unless a document needs too many windows
        read = np.where(
            truncation.needed(lengths, budget) > truncation.max_windows, truncation.max_windows * budget, lengths
        )
    return np.maximum(lengths - read, 0)


def unknown_tokens(ids: NDArray[Any], offsets: NDArray[np.int64], unknown_id: int | None) -> NDArray[np.int64]:
    """Return the number of unknown tokens in each document; zero if `unknown_id` is None (a byte-level tokenizer).

    Document i is `ids[offsets[i]:offsets[i + 1]]`.
    """
    num_documents = len(offsets) - 1
    counts = np.zeros(num_documents, dtype=np.int64)
    if unknown_id is None:
        return counts
    for start in range(0, len(ids), CHUNK):
        positions = start + np.flatnonzero(ids[start : start + CHUNK] == unknown_id)
        rows = np.searchsorted(offsets, positions, side="right") - 1
        counts += np.bincount(rows, minlength=num_documents)
    return counts


def losses(counts: TokenCounts, max_length: int, truncation: str, *, what: str = "documents") -> Iterator[str]:
    """Yield warnings about documents without tokens, many unknown tokens, and many tokens that are not read.

    `truncation` is the value of `data.truncation`; `what` is the word for the documents in the warnings.
    """
    total = f"of {counts.documents:,} {what}"
    if counts.no_tokens:
        yield (
            f"{counts.no_tokens:,} {total} have no tokens after tokenization (they have only zero-width characters, "
            "for example); the model gives all of them the same prediction."
        )
    share = counts.unknown_tokens / max(counts.tokens, 1)
    if share > UNKNOWN_TOKENS or counts.mostly_unknown > UNKNOWN_DOCUMENTS * counts.documents:
        only = f", {counts.wholly_unknown:,} of them entirely" if counts.wholly_unknown else ""
        mostly = f"; {counts.mostly_unknown:,} {total} consist mostly of unknown tokens{only}"
        yield (
            f"{share:.0%} of all tokens are unknown to the tokenizer{mostly if counts.mostly_unknown else ''}. "
            "Choose a backbone whose tokenizer covers the language of the texts."
        )
    cut = counts.cut_tokens / max(counts.tokens, 1)
    if counts.truncated > TRUNCATED_DOCUMENTS * counts.documents or cut > CUT_TOKENS:
        yield (
            f"{counts.truncated / counts.documents:.0%} of the {what} are not read completely with "
            f"max_length={max_length}; {cut:.0%} of all tokens are not read. To read more, use a larger "
            f"{READ_MORE[truncation]}."
        )


def sum_of(counts: Iterable[TokenCounts]) -> TokenCounts:
    return reduce(operator.add, counts)


def recorded(counts: Mapping[str, TokenCounts]) -> dict[str, dict[str, int]]:
    """Return the counts of each split for `result.json`."""
    return {split: asdict(found) for split, found in counts.items()}
