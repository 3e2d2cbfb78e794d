"""Divide a text into words, and assign each token to a word.

Shape suffix: N tokens of the text, without special tokens.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

_PUNCTUATION = r"!-/:-@\[-`{-~¡§«¶·»¿\u2010-\u2027\u2030-\u205e\u3001-\u3003\u3008-\u3011\uff01-\uff0f\uff1a-\uff20"
_WITHOUT_SPACES = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese and Chinese: one character each
_LETTERS = rf"[^\s{_PUNCTUATION}{_WITHOUT_SPACES}]+"
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|{_LETTERS}(?:['\u2019-]{_LETTERS})*|[{_PUNCTUATION}]+")

Span = tuple[int, int]


def words_of(text: str, offsets_N: Sequence[Span]) -> tuple[list[Span], list[int]]:
    """Return the character span of each word of `text`, and the index of the word of each token.

    `offsets_N` are the character spans of the tokens, in order. A word is a run of letters and digits (with apostrophes
    and hyphens between them), a run of punctuation, or a Chinese or Japanese character. Words that share a token become
    one word, so that each token belongs to exactly one word. A token that contains no character of a word, such as a
    line end, belongs to the next word.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    first_N = [min(bisect_right(ends, start), len(spans) - 1) for start, _ in offsets_N]
    last_N = [max(bisect_left(starts, end) - 1, first) for first, (_, end) in zip(first_N, offsets_N, strict=True)]
    joined = {word for first, last in zip(first_N, last_N, strict=True) for word in range(first, last)}
    merged: list[Span] = []
    index = []
    for word, (start, end) in enumerate(spans):
        if word - 1 in joined:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
        index.append(len(merged) - 1)
    return merged, [index[first] for first in first_N]
