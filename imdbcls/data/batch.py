"""A batch: documents that are truncated, or split into windows, and padded to one width.

Shapes: L layers, B documents in the batch, T tokens in each padded row, D hidden size, N non-padding tokens, M masked
tokens.
If documents are split into windows, each of the batch's W windows is a separate row; token ids and mask then have W
rows instead of B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdbcls.data.features import Features
from imdbcls.data.tokens import Tokens
from imdbcls.data.windows import Windows, window_starts
from imdbcls.runtime.padding import token_indices

# Widths are rounded up to a multiple of this number, so that matrix kernels run faster and fewer shapes occur.
WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class Share:
    """One process's share of an optimizer step.

    `step_documents` and `step_tokens` count the documents and the non-padding tokens of the step over all processes.
    `weight` is 1, or 0 if the step has too few documents for this process to get one. The process then computes a
    document of another process, because all processes must take part in the backward pass. The weight 0 removes this
    document from the gradient.
    """

    step_documents: int
    step_tokens: int
    weight: int


@dataclass(frozen=True)
class MaskedTokens:
    """The tokens of a batch that a masked language model predicts.

    `rows_M` and `columns_M` are the indices of these tokens in input_ids_BT, in ascending order of rows. `labels_M` are
    the token ids before masking. All three tensors are int64.
    """

    rows_M: Tensor
    columns_M: Tensor
    labels_M: Tensor

    def __len__(self) -> int:
        return len(self.labels_M)

    def of_rows(self, start: int, end: int) -> "MaskedTokens":
        """Return the masked tokens in the rows `start` to `end` - 1. Row `start` becomes row 0 of the result."""
        first, last = torch.searchsorted(self.rows_M, torch.tensor([start, end])).tolist()
        return MaskedTokens(self.rows_M[first:last] - start, self.columns_M[first:last], self.labels_M[first:last])


@dataclass(frozen=True)
class Batch:
    """A batch of documents, padded on the right to one width.

    - `input_ids_BT` are the token ids (int64). Each row is padded with the tokenizer's padding id.
    - `mask_BT` is True at non-padding tokens, including special tokens, and False at padding.
    - `documents_W` is the index of each row's document within the batch (int64, ascending); None if no document has
      more than one row.
    - `labels_B` are the class indices (int64).
    - `rows` are the indices of the documents in their split.
    - `num_tokens` is the number of non-padding tokens in the batch.
    - `token_indices_N` are the indices of the non-padding tokens in the flattened input_ids_BT; None on the CPU.
    - `features` is the cached output of a frozen encoder for this batch; None if nothing is cached. It is hidden_BTD,
      or hidden_LBTD for a head that reads several layers. T is 1 if the head reads one vector per layer.
    - `token_types_BT` are the token types of pairs of texts (int64, 0 at padding); None if the encoder has none.
    - `share` describes the optimizer step if it is shared by several processes; None if the batch is the whole step.
    - `masked` are the tokens to predict in pretraining; None in classification.
    """

    input_ids_BT: Tensor
    mask_BT: Tensor
    documents_W: Tensor | None
    labels_B: Tensor
    rows: NDArray[np.int64]
    num_tokens: int
    token_indices_N: Tensor | None = None
    features: Tensor | None = None
    share: "Share | None" = None
    masked: MaskedTokens | None = None
    token_types_BT: Tensor | None = None

    @property
    def step_documents(self) -> int:
        """The number of documents in the optimizer step, over all processes."""
        return len(self) if self.share is None else self.share.step_documents

    @property
    def weight(self) -> int:
        """The factor of the batch's loss: 0 if all its documents belong to another process, else 1."""
        return 1 if self.share is None else self.share.weight

    @property
    def step_tokens(self) -> int:
        """The number of non-padding tokens in the optimizer step, over all processes."""
        return self.num_tokens if self.share is None else self.share.step_tokens

    @property
    def targets(self) -> Tensor:
        """What the model predicts: labels_B or, in pretraining, labels_M."""
        return self.labels_B if self.masked is None else self.masked.labels_M

    @property
    def step_targets(self) -> int:
        """The number of targets in the optimizer step, over all processes. The loss is the mean over these targets.

        If all documents are empty in pretraining, there are no targets. The number is then 1, and the loss is 0.
        """
        return self.step_documents if self.masked is None else max(len(self.masked), 1)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.rows)

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of `Classifier.forward` or, with masked tokens, of `MaskedLanguageModel.forward`."""
        width = self.input_ids_BT.shape[1]
        return {
            "input_ids_BT": self.input_ids_BT,
            "mask_BT": self.mask_BT,
            "documents_W": self.documents_W,
            "num_documents": len(self),
            "token_indices_N": self.token_indices_N,
            "features": self.features,
            **({} if self.masked is None else {"masked_indices_M": self.masked.rows_M * width + self.masked.columns_M}),
            "token_types_BT": self.token_types_BT,
        }

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device, or the batch itself for the CPU.

        A copy to CUDA does not block: its source is pinned, and PyTorch keeps pinned memory until the copy is done. The
        source must be contiguous, because PyTorch copies strided tensors through unpinned memory. On other devices, the
        source could be freed before an asynchronous copy is done, so the copy blocks.
        """
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            if device.type == "cuda":
                return tensor.contiguous().pin_memory().to(device, non_blocking=True)
            return tensor.to(device)

        return replace(
            self,
            input_ids_BT=move(self.input_ids_BT),
            mask_BT=move(self.mask_BT),
            documents_W=None if self.documents_W is None else move(self.documents_W),
            labels_B=move(self.labels_B),
            token_indices_N=move(token_indices(self.mask_BT)),
            features=None if self.features is None else move(self.features),
            masked=None if self.masked is None else MaskedTokens(*map(move, vars(self.masked).values())),
            token_types_BT=None if self.token_types_BT is None else move(self.token_types_BT),
        )

    def split(self, num_rows: int) -> "list[Batch]":
        """Split the batch into micro-batches of at most `num_rows` rows; a batch that is small enough stays unchanged.

        The width of each micro-batch is the length of its longest row, rounded up. All windows of a document stay in
        one micro-batch, even if the document has more than `num_rows` windows.
        """
        if len(self.mask_BT) <= num_rows:
            return [self]
        rows_of_B = np.ones(len(self), dtype=np.int64)
        if self.documents_W is not None:
            rows_of_B = np.bincount(self.documents_W.numpy())
        ends_B = np.cumsum(rows_of_B)
        lengths_B = self.mask_BT.sum(dim=1)
        parts = []
        first, first_row = 0, 0
        while first < len(self):
            end = max(int(np.searchsorted(ends_B, first_row + num_rows, side="right")), first + 1)
            documents, part = slice(first, end), slice(first_row, int(ends_B[end - 1]))
            width = min(round_up(int(lengths_B[part].max())), self.mask_BT.shape[1])
            parts.append(
                Batch(
                    self.input_ids_BT[part, :width],
                    self.mask_BT[part, :width],
                    None if self.documents_W is None else self.documents_W[part] - first,
                    self.labels_B[documents],
                    self.rows[documents],
                    int(lengths_B[part].sum()),
                    features=None if self.features is None else self.features[..., part, :width, :],
                    masked=None if self.masked is None else self.masked.of_rows(part.start, part.stop),
                    token_types_BT=None if self.token_types_BT is None else self.token_types_BT[part, :width],
                )
            )
            first, first_row = end, part.stop
        return parts


class Collator:
    """A collator that truncates documents, or splits them into windows, and pads them into a batch.

    For each document, `num_windows` is its number of rows, and `lengths` is the number of tokens in each of its rows,
    including special tokens. All rows of a document are equally long.
    """

    def __init__(self, tokens: Tokens, labels: NDArray[np.int64], max_length: int, truncation: str | Windows) -> None:
        if isinstance(truncation, str) and truncation not in _KEEP:
            raise ValueError(f"truncation={truncation!r} is not one of {', '.join(_KEEP)}")
        self.tokens = tokens
        self.labels = labels
        assert tokens.second is None or isinstance(truncation, str), "pairs of texts are not split into windows"
        self._keep = _keep_head if isinstance(truncation, Windows) else _KEEP[truncation]
        self._max_length = max_length
        self._budget = max_length - tokens.num_special
        if self._budget < 1:
            raise ValueError(
                f"max_length={max_length} leaves no room for a document: each row has {tokens.num_special} special "
                "tokens. Increase max_length."
            )
        self.lengths = np.minimum(tokens.lengths, max_length)
        self.num_windows = np.ones_like(self.lengths)
        if isinstance(truncation, Windows):
            self.num_windows, sizes = truncation.plan(tokens.lengths - tokens.num_special, self._budget)
            self.lengths = sizes + tokens.num_special
        self.features: Features | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def width(self, rows: NDArray[np.int64]) -> int:
        return min(round_up(int(self.lengths[rows].max())), self._max_length)

    def collate(self, rows: NDArray[np.int64]) -> Batch:
        """Return the batch of the documents with the indices `rows` in the split."""
        num_windows_B = self.num_windows[rows]
        documents_W = np.repeat(np.arange(len(rows)), num_windows_B)
        lengths_W = self.lengths[rows][documents_W]
        width = self.width(rows)
        input_ids_WT = np.full((len(documents_W), width), self.tokens.pad_id, dtype=np.int64)
        types_WT = None
        if self.tokens.second is not None:
            types_WT = self._fill_with_pairs(input_ids_WT, rows)
        else:
            chunks = (ids for document in rows for ids in self._chunks(document))
            for window, ids in enumerate(chunks):
                start, end = len(self.tokens.prefix), int(lengths_W[window]) - len(self.tokens.suffix)
                input_ids_WT[window, :start] = self.tokens.prefix
                input_ids_WT[window, start:end] = ids
                input_ids_WT[window, end : lengths_W[window]] = self.tokens.suffix
        return Batch(
            torch.from_numpy(input_ids_WT),
            torch.from_numpy(np.arange(width) < lengths_W[:, None]),
            None if len(documents_W) == len(rows) else torch.from_numpy(documents_W),
            torch.from_numpy(self.labels[rows]),
            rows,
            int(lengths_W.sum()),
            features=None if self.features is None else self.features.padded(rows, lengths_W, width),
            token_types_BT=None if types_WT is None else torch.from_numpy(types_WT),
        )

    def _fill_with_pairs(self, input_ids_BT: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Write the token ids of pairs into a batch; return their token types, or None if the encoder has none."""
        tokens, second = self.tokens, self.tokens.second
        assert second is not None
        types_BT = None if second.types is None else np.zeros_like(input_ids_BT)
        for row, document in enumerate(rows):
            texts = (
                tokens.ids[tokens.offsets[document] : tokens.offsets[document + 1]],
                second.ids[second.offsets[document] : second.offsets[document + 1]],
            )
            budgets = pair_budgets(len(texts[0]), len(texts[1]), self._budget)
            first, other = (
                self._keep(ids, budget) if len(ids) > budget else ids
                for ids, budget in zip(texts, budgets, strict=True)
            )
            found = np.concatenate([tokens.prefix, first, second.separator, other, tokens.suffix])
            input_ids_BT[row, : len(found)] = found
            if types_BT is not None and (types := second.types) is not None:
                first_types, other_types = [types.first] * len(first), [types.second] * len(other)
                types_BT[row, : len(found)] = [
                    *types.prefix,
                    *first_types,
                    *types.separator,
                    *other_types,
                    *types.suffix,
                ]
        return types_BT

    def _chunks(self, document: int) -> list[NDArray[np.integer]]:
        """Return the token ids of each of a document's rows, without special tokens."""
        ids = self.tokens.ids[self.tokens.offsets[document] : self.tokens.offsets[document + 1]]
        if self.num_windows[document] > 1:
            size = int(self.lengths[document]) - self.tokens.num_special
            return [ids[start : start + size] for start in window_starts(len(ids), self.num_windows[document], size)]
        return [self._keep(ids, self._budget) if len(ids) > self._budget else ids]


def pair_budgets(first: int, second: int, budget: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair are read, if both together may have `budget` tokens.

    Tokens are removed from the longer text until the pair fits, as with `truncation="longest_first"` in transformers.
    If both texts are cut, each gets half of the budget. If the budget is odd, the longer text gets one token more; with
    equal lengths, the second text does.
    """
    if first + second <= budget:
        return first, second
    half = budget // 2
    if min(first, second) <= half:
        return (first, budget - first) if first <= second else (budget - second, second)
    return (half, budget - half) if first <= second else (budget - half, half)


def _keep_head(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    return ids[:budget]


def _keep_tail(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    return ids[len(ids) - budget :]


def _keep_head_tail(ids: NDArray[np.integer], budget: int) -> NDArray[np.integer]:
    """Keep `budget` tokens, a quarter of them from the start and the others from the end.

    The proportion comes from Sun et al. (2019, section 5.3.1), who keep 128 + 382 tokens of 510.
    """
    head = max(round(budget * 128 / 510), 1)
    tail = budget - head
    return np.concatenate([ids[:head], ids[len(ids) - tail :]])


_KEEP: dict[str, Callable[[NDArray[np.integer], int], NDArray[np.integer]]] = {
    "head": _keep_head,
    "tail": _keep_tail,
    "head_tail": _keep_head_tail,
}
TRUNCATIONS: Sequence[str] = tuple(_KEEP)


def round_up(length: int) -> int:
    return -(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
