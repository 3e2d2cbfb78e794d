"""Small tokens and batches."""

import numpy as np
import torch

from imdbcls.data.batch import Batch
from imdbcls.data.tokens import Tokens

BOS, EOS, PAD = 500, 501, 502


def make_tokens(lengths: np.ndarray) -> Tokens:
    """Return tokens of documents with these lengths. Document i has the tokens i, i + 1, …, modulo 499."""
    offsets = np.concatenate([[0], np.cumsum(lengths - 2)]).astype(np.int64)
    ids = np.concatenate([(row + np.arange(length - 2)) % 499 for row, length in enumerate(lengths)])
    return Tokens(ids.astype(np.uint16), offsets, (BOS,), (EOS,), PAD)


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.input_ids_BT, other.input_ids_BT)
        and torch.equal(one.mask_BT, other.mask_BT)
        and (one.documents_W is None) == (other.documents_W is None)
        and (one.documents_W is None or torch.equal(one.documents_W, other.documents_W))
        and torch.equal(one.labels_B, other.labels_B)
        and np.array_equal(one.rows, other.rows)
        and one.num_tokens == other.num_tokens
    )
