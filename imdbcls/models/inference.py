"""Predict the classes of a split's documents, and measure the latency of single documents."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imdbcls.data.batch import Batch
from imdbcls.data.batches import EvalBatches
from imdbcls.data.documents import Documents
from imdbcls.data.tokens import Tokens
from imdbcls.kernels import inference_weights
from imdbcls.runs.predictions import Predictions
from imdbcls.runtime.device import Hardware
from imdbcls.runtime.distributed import Processes
from imdbcls.runtime.limits import is_out_of_memory

logger = logging.getLogger(__name__)

LATENCY_DOCUMENTS = 25  # documents that a run times one at a time, after the test split is evaluated


@torch.inference_mode()
def predict_probabilities(
    model: nn.Module,
    batches: EvalBatches,
    hardware: Hardware,
    on_progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> NDArray[np.float64]:
    """Return probabilities_NC in the order of the documents: the float64 softmax of the model's float32 logits.

    The model runs in evaluation mode. The batches depend only on the documents and the settings, so a second call
    returns exactly the same numbers. After each batch, `on_progress` gets the number of documents done and the total.
    The logits stay on the device until the end, so the host does not wait for the GPU after each batch. With several
    `processes`, each evaluates a part of the batches, and all return the probabilities of all documents.
    """
    processes = processes or Processes()
    rows: list[NDArray[np.int64]] = []
    logits: list[Tensor] = []
    for batch, logits_BC in logits_of_batches(model, batches, hardware, on_progress, processes):
        logits.append(logits_BC)
        rows.append(batch.rows)
    num_labels = processes.largest(logits[0].shape[1] if logits else 0)
    logits_NC = torch.zeros(batches.num_documents, num_labels)
    if logits:
        logits_NC[torch.from_numpy(np.concatenate(rows))] = torch.cat(logits).cpu().float()
    processes.add(logits_NC)  # each row is zero in all processes except one
    return torch.softmax(logits_NC.double(), dim=1).numpy()


def logits_of_batches(
    model: nn.Module,
    batches: EvalBatches,
    hardware: Hardware,
    on_progress: Callable[[int, int], None] | None,
    processes: Processes,
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield this process's batches and their logits, in evaluation mode. See `predict_probabilities`.

    The caller must disable gradients. A batch and its logits may be on different devices.
    """
    was_training = model.training
    model.eval()
    done = 0
    with inference_weights():
        for batch in batches.of_process(processes.rank, processes.size):
            yield batch, logits_of(model, batch, hardware)
            done = min(done + processes.size * len(batch), batches.num_documents)
            if on_progress is not None:
                on_progress(done, batches.num_documents)
    model.train(was_training)


def predictions_of(
    documents: Documents, tokens: Tokens, probabilities_NC: NDArray[np.float64], label_names: Sequence[str]
) -> Predictions:
    """Return the predictions for `documents`; the predicted class is the most probable class."""
    return Predictions(
        ids=np.array(documents.ids, dtype=object),
        labels=documents.labels,
        predicted=probabilities_NC.argmax(axis=1),
        probabilities=probabilities_NC,
        tokens=tokens.lengths,
        clusters=None if documents.clusters is None else np.array(documents.clusters, dtype=object),
        label_names=tuple(label_names),
        parts=None if documents.parts is None else np.array(documents.parts, dtype=object),
    )


def logits_of(model: nn.Module, batch: Batch, hardware: Hardware) -> Tensor:
    """Return logits_BC of a batch. If memory runs out, log a warning and compute the two halves in turn."""

    def of_all() -> Tensor:
        on_device = batch.to(hardware.device)
        with hardware.forward_pass():
            return model(**on_device.inputs)

    try:
        return of_all()
    except (RuntimeError, MemoryError) as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    # Continue outside the `except` block: inside it, the traceback keeps the failed attempt's tensors in memory.
    if hardware.device.type == "cuda":
        torch.cuda.empty_cache()
    num_rows = len(batch.mask_BT)
    logger.warning(
        f"evaluation: not enough memory for a batch of {num_rows} documents (or windows); halving the batch."
    )
    halves = batch.split((num_rows + 1) // 2)
    return torch.cat([logits_of(model, half, hardware) for half in halves])


@torch.inference_mode()
def measure_latency(model: nn.Module, batches: EvalBatches, hardware: Hardware, num_documents: int) -> dict[str, float]:
    """Measure the latency of single documents, from token ids to probabilities: `p50` and `p95` in milliseconds.

    The documents are evenly spaced in the order of their lengths. Each document is timed once. Before the first
    document of each input shape is timed, it runs once untimed, because PyTorch prepares its kernels in the first pass
    for a shape. With the fast CPU layers, the weights are prepared once for all documents.
    """
    model.eval()
    milliseconds = []
    prepared: set[tuple[int, ...]] = set()
    with inference_weights():
        for batch in batches.single_documents(num_documents):
            shape = (*batch.input_ids_BT.shape, batch.num_tokens)
            for _ in range(1 if shape in prepared else 2):
                started = time.perf_counter()
                on_device = batch.to(hardware.device)
                with hardware.forward_pass():
                    model(**on_device.inputs).softmax(dim=1).cpu()
                elapsed = time.perf_counter() - started
            prepared.add(shape)
            milliseconds.append(1000 * elapsed)
    return {"p50": float(np.percentile(milliseconds, 50)), "p95": float(np.percentile(milliseconds, 95))}
