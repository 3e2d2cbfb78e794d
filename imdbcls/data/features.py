"""Cache the output of a frozen encoder for a split on disk, without padding, and map it into memory.

Shapes: L layers, B rows in a batch, T tokens in each padded row, N vectors in the split, D hidden size.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdbcls.runs.format_version import FORMAT_VERSION
from imdbcls.runtime.atomic import creating_folder, sync_file
from imdbcls.runtime.cache import remove_damaged

VECTORS, INDEX, ABOUT = "vectors.bin", "index.bin", "entry.json"
# The format version of a cache entry. It is part of the entry's key, so entries of other versions are ignored.
FEATURES = 3
# Bytes per block of vectors. Each block has its own checksum, so that several threads can check blocks in parallel.
BLOCK = 2**24
# The dtypes of an encoder's output in PyTorch and NumPy, keyed by name in entry.json. bfloat16 is stored as raw bits.
_DTYPES: dict[str, tuple[torch.dtype, type[np.generic]]] = {
    "float32": (torch.float32, np.float32),
    "bfloat16": (torch.bfloat16, np.int16),
    "float16": (torch.float16, np.float16),
}


@dataclass(frozen=True)
class Encoded:
    """The encoder's output for some documents.

    `rows` are the indices of the documents in the split. `sizes` are the numbers of vectors of these documents, summed
    over windows. `vectors` has the vectors of all documents and windows in order, on the CPU: `hidden_ND`, or
    `hidden_NLD` with several layers. A window has one vector if `pooled`, otherwise one for each token.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    vectors: Tensor
    pooled: bool


@dataclass(frozen=True)
class Features:
    """The cached encoder output for one split: document i has `vectors[starts[i]:starts[i] + sizes[i]]`.

    The shape of `vectors` is (N, D), or (N, L, D) with several layers. A row of a batch, which is a document or one of
    its windows, has one vector if `pooled`, otherwise one for each token.
    """

    vectors: NDArray[Any]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    dtype: torch.dtype
    pooled: bool

    def __len__(self) -> int:
        return len(self.starts)

    def padded(self, rows: NDArray[np.int64], lengths_B: NDArray[np.int64], width: int) -> Tensor:
        """Return hidden_BTD, or hidden_LBTD with several layers, in the encoder's dtype and with zeros at padding.

        `rows` are the indices of the batch's documents in the split. `lengths_B` is the number of tokens in each row of
        the batch, where each row is a document or one of its windows. `width` is T, unless the vectors are pooled: T is
        then 1.
        """
        if self.pooled:
            lengths_B, width = np.ones_like(lengths_B), 1
        *layers, hidden_size = self.vectors.shape[1:]
        hidden = np.zeros((*layers, len(lengths_B), width, hidden_size), dtype=self.vectors.dtype)
        batch_row = 0
        for document in rows:
            start, end = self.starts[document], self.starts[document] + self.sizes[document]
            while start < end:
                length = lengths_B[batch_row]
                hidden[..., batch_row, :length, :] = np.moveaxis(self.vectors[start : start + length], 0, -2)
                start, batch_row = start + length, batch_row + 1
        return torch.from_numpy(hidden).view(self.dtype)


def write_features(entry: Path, num_documents: int, encoded: Iterable[Encoded]) -> None:
    """Write a cache entry for a split; raise OSError if the disk is full.

    `encoded` must contain all `num_documents` documents of the split, in any order. The file of vectors is written
    sequentially, because a full disk would kill a process that writes through a memory map.
    """
    index = np.zeros((2, num_documents), dtype=np.int64)
    checksums, num_vectors = BlockChecksums(), 0
    with creating_folder(entry) as folder:
        with open(folder / VECTORS, "wb") as file:
            for part in encoded:
                ends = num_vectors + np.cumsum(part.sizes)
                index[0, part.rows], index[1, part.rows] = ends - part.sizes, part.sizes
                num_vectors += int(part.sizes.sum())
                raw = part.vectors.contiguous().view(torch.uint8).flatten().numpy().data
                checksums.update(raw)
                file.write(raw)
            sync_file(file)
        with open(folder / INDEX, "wb") as file:
            file.write(index.tobytes())
            sync_file(file)
        about = {
            FORMAT_VERSION: FEATURES,
            "dtype": str(part.vectors.dtype).removeprefix("torch."),
            **({"num_layers": part.vectors.shape[1]} if part.vectors.dim() == 3 else {}),
            "hidden_size": part.vectors.shape[-1],
            "num_documents": num_documents,
            "num_vectors": num_vectors,
            "pooled": part.pooled,
            "block_bytes": BLOCK,
            "vectors_crc32": checksums.of_blocks,
            "index_sha256": hashlib.sha256(index.tobytes()).hexdigest(),
        }
        with open(folder / ABOUT, "w", encoding="utf-8") as text_file:
            json.dump(about, text_file, indent=1)
            sync_file(text_file)


class BlockChecksums:
    """The CRC-32 checksums of the blocks of `BLOCK` bytes in a file that is written in pieces."""

    def __init__(self) -> None:
        self.of_blocks: list[int] = []
        self._filled = BLOCK  # bytes in the last block; if it is full, `update` begins a new block

    def update(self, raw: memoryview) -> None:
        while len(raw):
            if self._filled == BLOCK:
                self.of_blocks.append(0)
                self._filled = 0
            piece = raw[: BLOCK - self._filled]
            self.of_blocks[-1] = zlib.crc32(piece, self.of_blocks[-1])
            self._filled += len(piece)
            raw = raw[len(piece) :]


def checksums_of(path: Path, block_bytes: int) -> list[int]:
    """Return the CRC-32 of each block in a file.

    The file is read instead of mapped, so that a bad sector raises OSError instead of killing the process.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        starts = range(0, os.fstat(descriptor).st_size, block_bytes)
        # Reading and CRC-32 both release Python's global interpreter lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(partial(_checksum, descriptor, block_bytes), starts))
    finally:
        os.close(descriptor)


def _checksum(descriptor: int, num_bytes: int, start: int) -> int:
    return zlib.crc32(os.pread(descriptor, num_bytes, start))


def load_features(entry: Path) -> Features | None:
    """Map a cache entry into memory; return None if it does not exist or is damaged. Log and remove a damaged entry.

    Every call checks all vectors, because a disk can lose bits without changing a file's size or modification time.
    CRC-32 takes about 0.5 s per GB on one thread. One training epoch of a head over the same vectors takes several
    times as long.
    """
    if not entry.exists():
        return None
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
        dtype, stored = _DTYPES[about["dtype"]]
        layers = (about["num_layers"],) if "num_layers" in about else ()
        shape = (about["num_vectors"], *layers, about["hidden_size"])
        index = np.fromfile(entry / INDEX, dtype=np.int64).reshape(2, about["num_documents"])
        if hashlib.sha256(index.tobytes()).hexdigest() != about["index_sha256"]:
            raise ValueError(f"the checksum of {INDEX} is wrong")
        if (entry / VECTORS).stat().st_size != math.prod(shape) * np.dtype(stored).itemsize:
            raise ValueError(f"the size of {VECTORS} is wrong")
        if checksums_of(entry / VECTORS, about["block_bytes"]) != about["vectors_crc32"]:
            raise ValueError(f"the checksum of {VECTORS} is wrong")
        vectors = np.memmap(entry / VECTORS, dtype=stored, mode="r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remove_damaged(entry, "feature cache", error)
        return None
    # Return plain arrays: slicing a memmap runs Python code, which would take a fifth of the time to collate a batch.
    return Features(vectors.view(np.ndarray), index[0], index[1], dtype, about["pooled"])
