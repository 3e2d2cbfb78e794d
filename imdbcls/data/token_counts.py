"""Count what is lost between a text and the tokens that the encoder reads, and warn if it is much."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows

CHUNK = 2**24  # tokens looked at in one go
# A warning is worth its line where more than this is lost.
# Subword tokenizers cover all but 0.1 % of the tokens of their own language; a vocabulary of 2,000 words, with which a
# model still learns, covers 88 to 93 % of the sample corpus.
UNKNOWN_TOKENS = 0.15
UNKNOWN_DOCUMENTS = 0.01  # whose tokens are mostly unknown: at random, that is one point of accuracy
# IMDB at 512 tokens has 14 % longer documents, which is the usual setting; at 256 about 40 %.
TRUNCATED_DOCUMENTS = 0.5
CUT_TOKENS = 0.25


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of some documents, special tokens not counted."""

    documents: int
    tokens: int
    shortest: int  # tokens of the shortest document
    no_tokens: int  # documents of which the tokenizer leaves nothing
    unknown_tokens: int
    wholly_unknown: int  # documents with nothing but unknown tokens
    mostly_unknown: int  # documents with at least half of them unknown, those above among them
    truncated: int  # documents that are not read completely
    cut_tokens: int  # tokens that are not read

    def __add__(self, other: Self) -> "TokenCounts":
        summed = {key: value + getattr(other, key) for key, value in asdict(self).items()}
        return TokenCounts(**summed | {"shortest": min(self.shortest, other.shortest)})


def count_tokens(tokens: Tokens, tokenizer: Any, max_length: int, truncation: str | Windows) -> TokenCounts:
    """Count what `tokenizer` left of some documents and what `max_length` leaves of that."""
    lengths, budget = np.diff(tokens.offsets), max_length - tokens.num_special
    unknown = unknown_tokens(tokens, tokenizer.unk_token_id)
    read = np.full(len(lengths), budget)
    if isinstance(truncation, Windows):  # they overlap; those of a document of too many windows have gaps
        read = np.where(
            truncation.needed(lengths, budget) > truncation.max_windows, truncation.max_windows * budget, lengths
        )
    cut = np.maximum(lengths - read, 0)
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


def unknown_tokens(tokens: Tokens, unknown_id: int | None) -> NDArray[np.int64]:
    """The unknown tokens of each document. A byte-level tokenizer has none: it encodes any text."""
    counts = np.zeros(len(tokens), dtype=np.int64)
    if unknown_id is None:
        return counts
    for start in range(0, len(tokens.ids), CHUNK):
        places = start + np.flatnonzero(tokens.ids[start : start + CHUNK] == unknown_id)
        rows = np.searchsorted(tokens.offsets, places, side="right") - 1
        counts += np.bincount(rows, minlength=len(tokens))
    return counts


def losses(counts: TokenCounts, max_length: int, *, what: str = "documents") -> Iterator[str]:
    """Yield a sentence for each kind of loss that is worth a warning. `what` names the documents."""
    total = f"of {counts.documents:,} {what}"
    if counts.no_tokens:
        yield (
            f"{counts.no_tokens:,} {total} have no token left after tokenization, such as texts of zero-width "
            "characters: the encoder gives all of them the same answer."
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
            f"{counts.truncated / counts.documents:.0%} of the {what} are longer than max_length={max_length} tokens; "
            f"{cut:.0%} of all tokens are not read. A larger max_length or data.truncation=windows reads more."
        )


def sum_of(counts: Iterable[TokenCounts]) -> TokenCounts:
    return reduce(operator.add, counts)


def recorded(counts: Mapping[str, TokenCounts]) -> dict[str, dict[str, int]]:
    """The counts of each split for `result.json`."""
    return {split: asdict(found) for split, found in counts.items()}
