"""Quantize an ONNX file to 8-bit integers, and measure the change in accuracy, speed and size on real documents."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdbcls.data.subset import spread
from imdbcls.exports.documents import CheckDocuments
from imdbcls.exports.onnx_file import MODEL
from imdbcls.exports.source import ExportSource, standalone_tokenizer

INT8_MODEL = "model.int8.onnx"
BATCH_SIZE = 16
NUM_DOCUMENTS = 500  # default number of documents for the measurement


@dataclass(frozen=True)
class Int8Cost:
    """Accuracy, speed and size of the float32 and the int8 model. The accuracies are None for the shipped sample."""

    documents: int
    agreement: float  # share of documents with the same predicted class
    accuracy: float | None
    accuracy_int8: float | None
    documents_per_second: float
    documents_per_second_int8: float
    megabytes: float
    megabytes_int8: float

    def sentence(self) -> str:
        gained = self.documents_per_second_int8 / self.documents_per_second
        accuracy = "" if self.accuracy is None else f"accuracy {self.accuracy:.2%} → {self.accuracy_int8:.2%}, "
        return (
            f"int8: {accuracy}same class for {self.agreement:.2%} of {self.documents:,} documents, "
            f"{self.documents_per_second:.1f} → {self.documents_per_second_int8:.1f} documents/s (factor "
            f"{gained:.2f}), {self.megabytes:.1f} → {self.megabytes_int8:.1f} MB"
        )

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def quantize(folder: Path) -> None:
    """Write `model.int8.onnx`: weights in int8, activations quantized at run time (onnxruntime's dynamic mode)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # hides a warning that recommends preprocessing
    try:
        quantize_dynamic(folder / MODEL, folder / INT8_MODEL, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(before)


def measure(source: ExportSource, folder: Path, given: CheckDocuments, num_documents: int = NUM_DOCUMENTS) -> Int8Cost:
    """Classify about `num_documents` documents with the float32 and the int8 model, and compare the results.

    The documents are spread over all lengths and contain every class.
    """
    chosen = spread(given.documents, num_documents)
    texts, labels_N = chosen.texts, chosen.labels
    paths = [folder / name for name in (MODEL, INT8_MODEL)]
    (logits_NC, speed), (int8_NC, int8_speed) = classify(source, paths, texts)
    predicted_N, int8_N = logits_NC.argmax(axis=1), int8_NC.argmax(axis=1)
    return Int8Cost(
        documents=len(texts),
        agreement=float((predicted_N == int8_N).mean()),
        accuracy=float((predicted_N == labels_N).mean()) if given.are_own else None,
        accuracy_int8=float((int8_N == labels_N).mean()) if given.are_own else None,
        documents_per_second=speed,
        documents_per_second_int8=int8_speed,
        megabytes=(folder / MODEL).stat().st_size / 1e6,
        megabytes_int8=(folder / INT8_MODEL).stat().st_size / 1e6,
    )


def classify(
    source: ExportSource, paths: Sequence[Path], texts: Sequence[str]
) -> list[tuple[NDArray[np.float32], float]]:
    """Return the logits (N, C) of each ONNX file, and its speed in documents per second.

    The speed does not include tokenization. Each batch is classified with all files in turn, so that other programs on
    the machine slow down all files equally.
    """
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths]
    tokenizer = standalone_tokenizer(source)
    tokenizer.no_padding()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logits = [np.zeros((len(rows), len(source.label_names)), dtype=np.float32) for _ in sessions]
    seconds = [0.0] * len(sessions)
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        width = max(len(rows[i]) for i in chosen)
        ids_BT = np.full((len(chosen), width), int(source.tokenizer.pad_token_id), dtype=np.int64)
        for row, i in enumerate(chosen):
            ids_BT[row, : len(rows[i])] = rows[i]
        lengths_B1 = np.array([[len(rows[i])] for i in chosen])
        mask_BT = (np.arange(width) < lengths_B1).astype(np.int64)
        for number, session in enumerate(sessions):
            started = time.perf_counter()
            (logits[number][chosen],) = session.run(None, {"input_ids": ids_BT, "attention_mask": mask_BT})
            seconds[number] += time.perf_counter() - started
    return [(logits_NC, len(rows) / spent) for logits_NC, spent in zip(logits, seconds, strict=True)]
