"""Cut long documents where that cannot change a token, so that the memory of tokenizing is bounded by characters."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

PIECE = 2**17  # characters of a piece, at least
BATCH = (
    2**21
)  # characters of a call of the tokenizer, where it takes more than one piece; it needs some 25 bytes for each
MAX_PIECES = 1000  # of a call: enough for all cores

# A single space between two ASCII letters or digits. No normalizer below looks across it, and every pre-tokenizer below
# begins a word there, whatever is before.
_CUT = re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
# These replace white space, but not a single space.
_SPACE_PATTERNS = ({"Regex": r"\s{2,}|[\n\r\t]"}, {"Regex": " {2,}"})
_SINGLE_SPACE = re.compile(r"(?<! ) (?! )")


def can_cut(backend: Any) -> bool:
    """Return whether a text cut at a space has the same tokens, judging by the parts of a `tokenizers.Tokenizer`."""
    about = json.loads(backend.to_str())
    normalizers = _parts(about["normalizer"], "normalizers")
    splitters = _parts(about["pre_tokenizer"], "pretokenizers")
    return (
        len(splitters) == 1
        and _begins_words_at_spaces(splitters[0])
        and all(map(_is_local, normalizers))
        and not any(map(_spans_a_cut, about["added_tokens"]))
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
    """Whether a normalizer gives the pieces of a text what it gives the text, in pieces."""
    kind = normalizer["type"]
    return (
        kind in _NORMALIZERS
        or (kind == "Strip" and not normalizer["strip_left"])  # a piece but the first begins with a space
        or (kind == "Replace" and normalizer["pattern"] in _SPACE_PATTERNS and normalizer["content"] == " ")
    )


def _spans_a_cut(added_token: dict[str, Any]) -> bool:
    """Whether an added token, which is found before words are, may take a space at which a text is cut."""
    content = added_token["content"]
    return bool(_SINGLE_SPACE.search(content)) or (added_token["rstrip"] and content[-1:].isalnum())


def pieces_of(text: str, cut: bool) -> Iterator[str]:
    """Yield a text in pieces of at least `PIECE` characters, or in one piece where it must not be cut."""
    start = 0
    while cut and len(text) - start > PIECE:
        place = _CUT.search(text, start + PIECE)
        if place is None:
            break
        yield text[start : place.start()]
        start = place.start()
    yield text[start:] if start else text


def batches_of(texts: Sequence[str], cut: bool) -> Iterator[tuple[list[int], list[str]]]:
    """Yield pieces for a call of the tokenizer each, with the rows of the texts that they are of, in order."""
    rows: list[int] = []
    batch: list[str] = []
    num_characters = 0
    for row, text in enumerate(texts):
        for piece in pieces_of(text, cut):
            if batch and (len(batch) == MAX_PIECES or num_characters + len(piece) > BATCH):
                yield rows, batch
                rows, batch, num_characters = [], [], 0
            rows.append(row)
            batch.append(piece)
            num_characters += len(piece)
    if batch:
        yield rows, batch
