"""Tokenize each split once and cache the tokens on disk, in memory-mapped files that all runs share."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.documents import Documents
from imdbcls.data.pieces import batches_of, can_split
from imdbcls.data.tokenizer_check import panics_raised
from imdbcls.errors import UserError
from imdbcls.runs.format_version import FORMAT_VERSION
from imdbcls.runtime.atomic import creating_folder, sync_file
from imdbcls.runtime.cache import cache_folder, remove_damaged

logger = logging.getLogger(__name__)

# The format version of a cache entry. It is part of the entry's key, so entries of other versions are ignored.
TOKENS = 1
LOG_ABOVE = 2_000  # tokenizing more documents takes seconds, so it is logged

_PARALLELISM = "TOKENIZERS_PARALLELISM"
_users_parallelism = os.environ.get(_PARALLELISM)
_pool_pid: int | None = None


@dataclass(frozen=True)
class SecondTexts:
    """The tokens of the second texts of pairs, and what the tokenizer's pair encoding puts between the texts.

    `ids` and `offsets` are as in `Tokens`. The input of a model is the prefix, the first text, `separator`, the second
    text and the suffix. `types` are the token types of these five parts; None if the model gets no token types.
    """

    ids: NDArray[Any]
    offsets: NDArray[np.int64]
    separator: tuple[int, ...]
    types: "PairTypes | None"


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split before truncation, without special tokens, concatenated in one array.

    Document i is `ids[offsets[i]:offsets[i + 1]]` (uint16 or int32). The input of a model is `prefix`, the truncated
    document and `suffix`, padded with `pad_id` to the width of the batch. If the documents are pairs of texts, `ids`
    has the first texts and `second` has the second texts.
    """

    ids: NDArray[Any]
    offsets: NDArray[np.int64]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    second: SecondTexts | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens in each document before truncation, including special tokens; shape (num_documents,)."""
        return self.text_lengths + self.num_special

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """The number of tokens in each document before truncation, without special tokens; shape (num_documents,)."""
        first = np.diff(self.offsets)
        return first if self.second is None else first + np.diff(self.second.offsets)

    @property
    def has_types(self) -> bool:
        """Whether the model gets token types. Only pairs of texts have them."""
        return self.second is not None and self.second.types is not None

    @property
    def num_special(self) -> int:
        separator = () if self.second is None else self.second.separator
        return len(self.prefix) + len(separator) + len(self.suffix)


def tokenize(documents: Documents, tokenizer: Any, *, cache_dir: str | Path | None) -> Tokens:
    """Return the tokens of `documents`, from the cache if possible.

    `tokenizer` is a transformers tokenizer with a fast backend. With `cache_dir=None`, the default cache is used. The
    key of a cache entry covers the texts and the complete tokenizer. An entry is built in a temporary folder and then
    renamed. So two processes may build it at the same time, and a killed process leaves no incomplete entry. Checksums
    reveal a damaged entry, which is logged and built again.

    Raise UserError for a tokenizer that cannot be used (see `plain_tokenizer`), and for a cache that is not writable.
    """
    plain = plain_tokenizer(tokenizer)
    first = _cached(documents.texts, plain, cache_dir)
    if documents.pairs is None:
        return Tokens(*first, plain.prefix, plain.suffix, plain.pad_id)
    return joined_pairs(first, _cached(documents.pairs, plain, cache_dir), pair_template(tokenizer), plain.pad_id)


def _cached(
    texts: Sequence[str], plain: "PlainTokenizer", cache_dir: str | Path | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the token ids and offsets of texts, from the cache if possible."""
    entry = cache_folder(cache_dir) / "tokens" / _key(texts, plain.sha256)
    loaded = _load(entry)
    if loaded is None:
        try:
            loaded = _build(entry, texts, plain)
        except OSError as error:
            raise UserError(
                f"The token cache {entry.parent} cannot be written ({error}); set data.cache_dir or IMDBCLS_CACHE."
            ) from error
    assert len(loaded[1]) == len(texts) + 1, f"{len(loaded[1]) - 1} documents in the cache, expected {len(texts)}"
    return loaded


def joined_pairs(
    first: tuple[NDArray[Any], NDArray[np.int64]],
    second: tuple[NDArray[Any], NDArray[np.int64]],
    template: "PairTemplate",
    pad_id: int,
) -> Tokens:
    """Return the tokens of pairs from the ids and offsets of their first and second texts."""
    found = SecondTexts(*second, template.separator, template.types)
    return Tokens(*first, template.prefix, template.suffix, pad_id, found)


def tokenize_in_memory(texts: Sequence[str], plain: "PlainTokenizer") -> Tokens:
    """Return the tokens of `texts` without using the cache."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    parts = []
    for row, ids in _encoded(texts, plain):
        parts.append(ids)
        offsets[row + 1] += len(ids)
    np.cumsum(offsets, out=offsets)
    all_ids = np.concatenate(parts) if parts else np.zeros(0, dtype=plain.dtype)
    return Tokens(all_ids, offsets, plain.prefix, plain.suffix, plain.pad_id)


def plain_tokenizer(tokenizer: Any) -> "PlainTokenizer":
    """Return the tokenizer without truncation and padding, and the special tokens around a document.

    A call takes 50 ms for RoBERTa's tokenizer. If texts arrive one by one, call this function once and keep its result.

    Raise UserError for a tokenizer without a fast backend, without a padding token or with unusable special tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} has no fast version (tokenizer.json); choose a backbone that has one."
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path} has no padding token; choose a backbone that has one."
        )
    with panics_raised():
        plain = _plain(backend.to_str())
    plain = plain._replace(pad_id=int(tokenizer.pad_token_id))
    if not plain.prefix and not plain.suffix:
        plain = plain._replace(suffix=(end_token(tokenizer),))
    special = (*plain.prefix, *plain.suffix, plain.pad_id)
    if unknown := [token for token in special if token > plain.highest]:
        raise UserError(
            f"The tokenizer adds the token id {unknown[0]:,}, but the highest id in its vocabulary is "
            f"{plain.highest:,}; choose another backbone."
        )
    return plain


def end_token(tokenizer: Any) -> int:
    """Return the id of the token to append to each document for a tokenizer without special tokens (GPT-2, Qwen).

    Without this token, an empty document would give the model an empty input.
    """
    ids = (getattr(tokenizer, f"{name}_token_id") for name in ("eos", "sep", "cls", "bos", "pad"))
    return int(next(token for token in ids if token is not None))


class PairTypes(NamedTuple):
    """The token types of the parts of a pair: one per special token, and one for each text."""

    prefix: tuple[int, ...]
    first: int
    separator: tuple[int, ...]
    second: int
    suffix: tuple[int, ...]


class PairTemplate(NamedTuple):
    """The special tokens with which a tokenizer encodes a pair of texts. `types` is None if the model needs none."""

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]
    types: PairTypes | None


def pair_template(tokenizer: Any) -> PairTemplate:
    """Encode a pair of words to find out how a tokenizer encodes a pair of texts.

    Raise UserError for a tokenizer that puts no special token between the texts.
    """
    backend = plain_tokenizer(tokenizer).backend
    first, second = (backend.encode(word, add_special_tokens=False).ids for word in ("a", "b"))
    found = backend.encode("a", "b", add_special_tokens=True)
    ids, types = tuple(found.ids), tuple(found.type_ids)
    for start in range(len(ids) - len(first) + 1):
        end = start + len(first)
        begin = next((i for i in range(end, len(ids)) if ids[i : i + len(second)] == tuple(second)), None)
        if ids[start:end] == tuple(first) and begin is not None and begin > end:
            stop = begin + len(second)
            parts = PairTypes(types[:start], types[start], types[end:begin], types[begin], types[stop:])
            used = any(types) and "token_type_ids" in tokenizer.model_input_names
            return PairTemplate(ids[:start], ids[end:begin], ids[stop:], parts if used else None)
    raise UserError(
        f"The tokenizer of {tokenizer.name_or_path} puts no special token between the texts of a pair. Join the "
        "columns instead (data.text_column=[first,second]), or choose another backbone."
    )


class PlainTokenizer(NamedTuple):
    """A tokenizer without truncation and padding, the special tokens around a document, and the sha256 of its JSON."""

    backend: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    highest: int  # highest id in the vocabulary
    sha256: bytes
    can_split: bool  # long documents may be tokenized in pieces
    pad_id: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of token ids in memory and on disk."""
        return np.dtype(np.uint16 if self.highest < 2**16 else np.int32)


@lru_cache(maxsize=1)  # all splits of a run use the same tokenizer
def _plain(tokenizer: str) -> PlainTokenizer:
    """Build a copy of a tokenizer from its JSON, without truncation and padding: they must not affect the cache key."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    prefix, suffix = _special_tokens(backend)
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    digest = hashlib.sha256(backend.to_str().encode()).digest()
    return PlainTokenizer(backend, prefix, suffix, highest, digest, can_split(backend), pad_id=-1)


def _key(texts: Sequence[str], tokenizer_sha256: bytes) -> str:
    digest = hashlib.sha256(f"{TOKENS} {len(texts)} ".encode())
    digest.update(tokenizer_sha256)
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:40]


def _special_tokens(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Encode a word with and without special tokens; return the special tokens before and after it."""
    plain = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start]), tuple(full[start + len(plain) :])
    raise UserError(
        f"The tokenizer's special tokens do not enclose the document (a word has the ids {plain} without them, and "
        f"{full} with them); choose a backbone with another tokenizer."
    )


def _encoded(texts: Sequence[str], plain: PlainTokenizer) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (row, token ids) for each piece of a text, in the order of the texts."""
    dtype = plain.dtype
    with _all_cores(), panics_raised():
        for rows, batch in batches_of(texts, plain.can_split):
            encodings = plain.backend.encode_batch_fast(batch, add_special_tokens=False)
            for row, encoding in zip(rows, encodings, strict=True):
                yield row, np.array(encoding.ids, dtype=dtype)


def _build(entry: Path, texts: Sequence[str], plain: PlainTokenizer) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Tokenize texts, write their token ids and offsets to a cache entry, and map the entry into memory."""
    if len(texts) > LOG_ABOVE:
        logger.info(f"Tokenizing {len(texts):,} documents; later runs use the cached tokens ...")
    with creating_folder(entry) as folder:
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        digest = hashlib.sha256()
        with open(folder / "ids.bin", "wb") as file:
            for row, ids in _encoded(texts, plain):
                raw = ids.tobytes()
                digest.update(raw)
                file.write(raw)
                offsets[row + 1] += len(ids)
            np.cumsum(offsets, out=offsets)
            sync_file(file)
        with open(folder / "offsets.bin", "wb") as file:
            file.write(offsets.tobytes())
            sync_file(file)
        about = {
            FORMAT_VERSION: TOKENS,
            "dtype": plain.dtype.name,
            "num_documents": len(texts),
            "num_tokens": int(offsets[-1]),
            "ids_sha256": digest.hexdigest(),
            "offsets_sha256": hashlib.sha256(offsets.tobytes()).hexdigest(),
        }
        with open(folder / "entry.json", "w", encoding="utf-8") as text_file:
            json.dump(about, text_file, indent=1)
            sync_file(text_file)
    loaded = _load(entry)
    if loaded is None:
        raise OSError("the new cache entry could not be read back")
    return loaded


def _load(entry: Path) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Map a cache entry into memory; return None if it does not exist or is damaged. Log and remove a damaged entry."""
    if not entry.exists():
        return None
    try:
        about = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        offsets = np.fromfile(entry / "offsets.bin", dtype=np.int64)
        ids: NDArray[Any]
        if about["num_tokens"] == 0:
            ids = np.zeros(0, dtype=about["dtype"])  # an empty file cannot be mapped
        else:
            ids = np.memmap(entry / "ids.bin", dtype=about["dtype"], mode="r", shape=(about["num_tokens"],))
        if hashlib.sha256(offsets.tobytes()).hexdigest() != about["offsets_sha256"]:
            raise ValueError("the checksum of offsets.bin is wrong")
        if hashlib.sha256(ids.data).hexdigest() != about["ids_sha256"]:
            raise ValueError("the checksum of ids.bin is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remove_damaged(entry, "token cache", error)
        return None
    return ids, offsets


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer use all cores within the context, and one thread in processes that are forked later.

    The tokenizer's threads do not survive a fork. In a forked process, the `tokenizers` library prints a warning if
    TOKENIZERS_PARALLELISM is not set, and hangs if the variable is `true`. A value that the user has set is not
    changed.
    """
    global _pool_pid
    if _users_parallelism is not None:
        yield
        return
    forked = _pool_pid is not None and _pool_pid != os.getpid()
    os.environ[_PARALLELISM] = "false" if forked else "true"
    _pool_pid = _pool_pid or os.getpid()
    try:
        yield
    finally:
        os.environ[_PARALLELISM] = "false"
