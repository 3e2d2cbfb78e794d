"""The documents for checking an export: the validation documents of the run, or else the shipped sample."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from imdbcls.construction import build_corpus
from imdbcls.data.documents import Documents
from imdbcls.data.sample import read_sample
from imdbcls.errors import UserError
from imdbcls.exports.source import ExportSource
from imdbcls.runs.data_origin import require_own_source
from imdbcls.runtime.hub import offline

logger = logging.getLogger(__name__)

LENGTHS = (3, 57)  # in tokens; the run's max_length is the third length
NUM_TEXTS = 7  # number of documents in the largest batch, and of texts that are tokenized


@dataclass(frozen=True)
class CheckDocuments:
    """Documents for checking an export. `are_own` says whether they are the run's validation documents."""

    documents: Documents
    are_own: bool

    @property
    def name(self) -> str:
        return "validation documents of the run" if self.are_own else "documents of the shipped sample"


def check_documents(source: ExportSource) -> CheckDocuments:
    """Return the runs' validation documents if they can be read and are unchanged, else the shipped sample.

    The network is not used. A dataset on the hub is read from the local cache.
    """
    try:
        run = source.runs[0]
        require_own_source(run.config.data.source.node, run.folder)
        with offline():
            corpus = build_corpus(run.config.data)
        if corpus.split_hash == run.result.get("split_hash"):
            return CheckDocuments(corpus.validation, are_own=True)
        reason = "the documents have changed"
    except UserError as error:
        reason = str(error).splitlines()[0]
    logger.info(f"Checking the export on the shipped sample instead of the run's documents: {reason}")
    sample = read_sample().train
    return CheckDocuments(Documents(sample.ids, sample.texts, sample.labels), are_own=False)


def check_batches(rows: list[list[int]], source: ExportSource) -> list[dict[str, Any]]:
    """Return batches of 1 and 7 documents with 3, 57 and max_length tokens, and a batch with mixed lengths.

    `rows` are the token ids of documents with special tokens. Each row of a batch begins at the start of a document. If
    the document is too short, the tokens of the next documents follow. If there are fewer than 7 documents, they are
    repeated.
    """
    limit, pad = source.config.max_length, int(source.tokenizer.pad_token_id)
    lengths = sorted({min(length, limit) for length in (*LENGTHS, limit)})
    endless = np.concatenate([np.array(row) for row in rows])
    starts = np.cumsum([0, *map(len, rows)])  # the start of each document in `endless`

    def batch(sizes: list[int]) -> dict[str, Any]:
        ids_BT = np.full((len(sizes), max(sizes)), pad)
        for i, size in enumerate(sizes):
            ids_BT[i, :size] = np.resize(np.roll(endless, -starts[i % len(rows)]), size)
        mask_BT = (np.arange(max(sizes)) < np.array(sizes)[:, None]).astype(int)
        return {"input_ids": ids_BT.tolist(), "attention_mask": mask_BT.tolist()}

    same = [batch([length] * size) for length in lengths for size in (1, NUM_TEXTS)]
    return [*same, batch([lengths[i % len(lengths)] for i in range(NUM_TEXTS)])]
