"""Split long documents into pieces without changing their tokens, to limit the memory that tokenization needs."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

PIECE = 2**17  # minimum characters in a piece, except the last piece of a document
# Maximum characters in one call of the tokenizer, except for a single longer piece. The tokenizer needs about 25 bytes
# of memory per character.
BATCH = 2**21
MAX_PIECES = 1000  # pieces in one call; enough for all cores

# A single space between two ASCII letters or digits. No normalizer that `can_split` accepts looks across such a space,
# and every pre-tokenizer that `can_split` accepts begins a word there, whatever precedes the space.
_SPLIT_POINT = re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
# Patterns of `Replace` normalizers that match several spaces or other white space, but not a single space.
_SPACE_PATTERNS = ({"Regex": r"\s{2,}|[\n\r\t]"}, {"Regex": " {2,}"})
_SINGLE_SPACE = re.compile(r"(?<! ) (?! )")


def can_split(backend: Any) -> bool:
    """Return whether a `tokenizers.Tokenizer` is known to give the same tokens if a document is split at spaces."""
    about = json.loads(backend.to_str())
    normalizers = _parts(about["normalizer"], "normalizers")
    splitters = _parts(about["pre_tokenizer"], "pretokenizers")
    return (
        len(splitters) == 1
        and _begins_words_at_spaces(splitters[0])
        and all(map(_is_local, normalizers))
        and not any(map(_spans_a_split, about["added_tokens"]))
    )


def _parts(node: dict[str, Any] | None, of_sequence: str) -> list[dict[str, Any]]:
    return [] if node is None else node.get(of_sequence, [node])


def _begins_words_at_spaces(splitter: dict[str, Any]) -> bool:
    kind = splitter["type"]
    return (
        kind == "BertPreTokenizer"
        or (kind == "ByteLevel" and splitter.get("use_regex", True))
        or (kind == "Metaspace" and splitter.get("split", True) and splitter["replacement"] == "\u2581")
    )


def _is_local(normalizer: dict[str, Any]) -> bool:
    """Return whether normalizing each piece of a document gives the same result as normalizing all of it."""
    kind = normalizer["type"]
    return (
        kind in _NORMALIZERS
        or (kind == "Strip" and not normalizer["strip_left"])  # every piece except the first begins with a space
        or (kind == "Replace" and normalizer["pattern"] in _SPACE_PATTERNS and normalizer["content"] == " ")
    )


def _spans_a_split(added_token: dict[str, Any]) -> bool:
    """Return whether an added token can contain or absorb a space at which a document is split.

    The tokenizer finds added tokens before it divides a document into words.
    """
    content = added_token["content"]
    return bool(_SINGLE_SPACE.search(content)) or (added_token["rstrip"] and content[-1:].isalnum())


def pieces_of(text: str, can_split: bool) -> Iterator[str]:
    """Yield the pieces of a document; without `can_split`, a single piece.

    Each piece except the last ends at the first split point after `PIECE` characters.
    """
    start = 0
    while can_split and len(text) - start > PIECE:
        match = _SPLIT_POINT.search(text, start + PIECE)
        if match is None:
            break
        yield text[start : match.start()]
        start = match.start()
    yield text[start:] if start else text


def batches_of(texts: Sequence[str], can_split: bool) -> Iterator[tuple[list[int], list[str]]]:
    """Yield (rows, pieces) for each call of the tokenizer: piece i belongs to `texts[rows[i]]`."""
    rows: list[int] = []
    batch: list[str] = []
    num_characters = 0
    for row, text in enumerate(texts):
        for piece in pieces_of(text, can_split):
            if batch and (len(batch) == MAX_PIECES or num_characters + len(piece) > BATCH):
                yield rows, batch
                rows, batch, num_characters = [], [], 0
            rows.append(row)
            batch.append(piece)
            num_characters += len(piece)
    if batch:
        yield rows, batch
