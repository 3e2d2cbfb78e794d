"""Evaluate a masked language model: the loss of each document, and the metrics of a split.

Shape suffixes: N documents, M masked tokens, V tokens in the vocabulary.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from imdbcls.data.batches import EvalBatches
from imdbcls.errors import UserError
from imdbcls.models.inference import logits_of_batches
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.distributed import Processes


@torch.inference_mode()
def masked_scores(
    model: nn.Module,
    batches: EvalBatches,
    hardware: Hardware,
    on_progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> NDArray[np.float64]:
    """Return scores_N3, three sums over the masked tokens of each document.

    The columns are the loss in nats, the number of correct predictions, and the number of masked tokens. The arguments
    are the same as for `predict_probabilities`.
    """
    processes = processes or Processes()
    scores_N3 = torch.zeros(batches.num_documents, 3, dtype=torch.float64)
    for batch, logits_MV in logits_of_batches(model, batches, hardware, on_progress, processes):
        assert batch.masked is not None
        labels_M = batch.masked.labels_M.to(hardware.device)
        losses_M = functional.cross_entropy(logits_MV, labels_M, reduction="none")
        correct_M = (logits_MV.argmax(dim=1) == labels_M).float()
        scores_M3 = torch.stack([losses_M, correct_M, torch.ones_like(losses_M)], dim=1).cpu().double()
        rows_M = batch.masked.rows_M if batch.documents_W is None else batch.documents_W[batch.masked.rows_M]
        scores_N3.index_add_(0, torch.from_numpy(batch.rows)[rows_M], scores_M3)
    processes.add(scores_N3)  # each row is zero in all processes except one
    return scores_N3.numpy()


def masked_metrics(scores_N3: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean loss in nats per masked token, its exponential (the perplexity), and the accuracy.

    Raise UserError if no token is masked.
    """
    loss, correct, num_tokens = scores_N3.sum(axis=0).tolist()
    if num_tokens == 0:
        raise UserError(
            f"No token of the {len(scores_N3):,} validation documents is masked, so the masked loss is undefined. Use "
            "more or longer validation documents (data.validation_limit, data.validation_fraction, max_length), or a "
            "higher masking.probability."
        )
    mean = loss / num_tokens
    return {"loss": mean, "perplexity": math.exp(min(mean, 700)), "accuracy": correct / num_tokens}
