"""Run a frozen encoder once over each document and cache its output on disk, for all epochs, heads and seeds.

Shape suffixes: L layers, B documents of a batch, T padded length, N non-padding tokens, D hidden size, W windows.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
import transformers
from torch import nn

from imdbcls.data.batches import EvalBatches
from imdbcls.data.features import FEATURES, VECTORS, Encoded, Features, load_features, write_features
from imdbcls.errors import UserError
from imdbcls.kernels import HeadInput, source_digest
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.models.environment import environment_of_encoder
from imdbcls.runtime.device import Hardware, all_threads
from imdbcls.runtime.locks import build_lock

logger = logging.getLogger(__name__)

RESERVE = 2e9  # bytes of disk space that the cache leaves free for the rest of the run and for other programs
OnProgress = Callable[[int, int], None]


def encode_once(
    model: Classifier,
    backbone: Backbone,
    splits: Mapping[str, EvalBatches],
    hardware: Hardware,
    *,
    weights: str,
    folder: Path,
    cache_gb: float,
    on_progress: OnProgress,
) -> dict[str, Features]:
    """Return the encoder's output for the documents of each split. Outputs that `folder` lacks are computed and added.

    `splits` contains the evaluation batches, so on the CPU, evaluation gives bit-identical results with and without the
    cache. In bf16 on other devices, the results are equal up to rounding (see `is_rounded`). The key of an entry
    depends on everything that determines the output: the batches, the hash of the weights, the architecture, the
    device, the precision, the rounding, the software, and the layers and vectors that the head reads. All heads that
    read only the last layer share one entry, which has the vectors of all tokens.

    `cache_gb` limits the size of the folder, in units of 10^9 bytes. Raise UserError if this limit or the free disk
    space is too small (before the output is written), or if the folder cannot be written.
    """
    with all_threads():  # the key depends on the number of threads, and encoding uses all of them
        encoder_key = key_of_encoder(model, backbone, hardware, weights)
    entries = {name: folder / key_of_batches(encoder_key, batches) for name, batches in splits.items()}
    found = {name: load_features(entry) for name, entry in entries.items()}
    missing = [name for name in splits if found[name] is None]

    def on_wait() -> None:
        logger.info(f"Waiting for another process that encodes the same documents into {folder}.")

    for index, name in enumerate(missing):
        batches, remaining = splits[name], [splits[other] for other in missing[index:]]
        try:
            with build_lock(folder / f".{entries[name].name}.lock", on_wait), all_threads():
                found[name] = load_features(entries[name])  # another process may have written the entry
                if found[name] is None:
                    logger.info(f"Encoding the {batches.num_documents:,} documents of the {name} split into {folder}.")
                    encoded = encode(model, batches, hardware, on_progress)
                    first = next(encoded)
                    require_space(
                        folder,
                        bytes_needed(remaining, first),
                        cache_gb,
                        describe_layers(first),
                        is_frozen=model.encoder_is_frozen,
                    )
                    write_features(entries[name], batches.num_documents, chain([first], encoded))
                    found[name] = load_features(entries[name])
        except OSError as error:
            raise UserError(
                f"The feature cache {folder} cannot be written ({error}). Set data.cache_dir or IMDBCLS_CACHE to "
                "another folder, or train without the cache: backbone.cache=false."
            ) from error
    features = {name: entry for name, entry in found.items() if entry is not None}
    assert features.keys() == splits.keys(), f"entries just written for {missing} could not be read"
    return features


def encode(model: Classifier, batches: EvalBatches, hardware: Hardware, on_progress: OnProgress) -> Iterator[Encoded]:
    """Yield the head's input for each batch, on the CPU and without padding."""
    pooled = model.head_input.pools
    model.eval()
    done = 0
    for batch in batches:
        on_device = batch.to(hardware.device)
        with torch.inference_mode(), hardware.forward_pass():
            hidden = model.encode(
                on_device.input_ids_BT, on_device.mask_BT, on_device.token_indices_N, on_device.token_types_BT
            )
            read_BT = torch.ones_like(on_device.mask_BT[:, :1]) if pooled else on_device.mask_BT
            vectors = hidden[..., read_BT, :].movedim(-2, 0)  # hidden_ND or hidden_NLD
            vectors = (vectors.bfloat16() if is_rounded(hardware, model.head_input) else vectors).cpu()
        sizes = read_BT.cpu().sum(dim=1)
        if batch.documents_W is not None:
            sizes = torch.zeros(len(batch), dtype=torch.int64).index_add(0, batch.documents_W, sizes)
        yield Encoded(batch.rows, sizes.numpy(), vectors, pooled)
        done += len(batch)
        on_progress(done, batches.num_documents)


def is_rounded(hardware: Hardware, head_input: HeadInput) -> bool:
    """Return whether the cache rounds the encoder's output to bfloat16. A run without the cache does not round it.

    In bf16, the fast CPU layers return bfloat16. On CUDA, autocast computes the last LayerNorm in float32, which would
    take twice the space. If the head reads one vector per layer, the vectors stay float32: they take little space.
    """
    return hardware.precision == "bf16" and hardware.device.type != "cpu" and not head_input.pools


def bytes_needed(splits: list[EvalBatches], example: Encoded) -> int:
    """Return the size in bytes of the encoder's output for all `splits`. `example` gives the bytes per vector."""
    num_vectors = sum(
        len(batch.mask_BT) if example.pooled else batch.num_tokens for batches in splits for batch in batches
    )
    return num_vectors * example.vectors[0].numel() * example.vectors.element_size()


def describe_layers(example: Encoded) -> str:
    if example.vectors.dim() == 2:
        return ""
    return f" ({example.vectors.shape[1]} hidden states per {'document or window' if example.pooled else 'token'})"


def require_space(folder: Path, needed: int, cache_gb: float, layers: str, *, is_frozen: bool) -> None:
    """Raise UserError if `needed` more bytes would exceed the cache limit or leave too little free disk space.

    `is_frozen` is true if no epoch trains the encoder. Otherwise, the error also says that training without the cache
    can draw other dropout masks.
    """
    used, free = cache_size(folder), shutil.disk_usage(folder).free - RESERVE
    effect = "with the same result up to rounding" if is_frozen else "and the dropout masks can differ"
    without = f"Or set backbone.cache=false: training is slower, {effect}."
    if used + needed > cache_gb * 1e9:
        raise UserError(
            f"The frozen encoder's output{layers} needs {format_bytes(needed)}, but {folder} already contains "
            f"{format_bytes(used)}, and its limit is backbone.cache_gb={cache_gb:g}. Raise the limit or, if that "
            f"frees enough, delete the folder. {without}"
        )
    if needed > free:
        raise UserError(
            f"The frozen encoder's output{layers} needs {format_bytes(needed)}, but the disk that contains {folder} "
            f"has only {format_bytes(max(free, 0))} available ({format_bytes(RESERVE)} is kept free). Free some "
            f"space, or set data.cache_dir or IMDBCLS_CACHE to a folder on another disk. {without}"
        )


def cache_size(folder: Path) -> int:
    """Return the size in bytes of all entries, including entries that are being written."""
    size = 0
    for path in folder.rglob(VECTORS):
        with contextlib.suppress(FileNotFoundError):  # another process may delete a file meanwhile
            size += path.stat().st_size
    return size


def format_bytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def key_of_encoder(model: Classifier, backbone: Backbone, hardware: Hardware, weights: str) -> str:
    """Return a hash of everything that determines the encoder's output, except its input."""
    config = backbone.encoder.config
    architecture = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
    content = {
        "format": FEATURES,
        "weights": weights,
        "architecture": [type(backbone.encoder).__name__, architecture, config._attn_implementation],
        "kernels": [backbone.cpu_fallback_reason, backbone.cuda_fallback_reason, source_digest()],
        "environment": environment_of_encoder(hardware, model.encoder),
        "hardware": [hardware.device.type, hardware.precision],
        "head_input": model.head_input,
        **({"rounded_to": "bfloat16"} if is_rounded(hardware, model.head_input) else {}),
        "versions": [torch.__version__, transformers.__version__],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def key_of_batches(encoder_key: str, batches: EvalBatches) -> str:
    """Return the key of an entry: a hash of `encoder_key` and of the token ids, token types, masks and rows."""
    digest = hashlib.sha256(encoder_key.encode())
    for batch in batches:
        digest.update(f"{tuple(batch.input_ids_BT.shape)}".encode())
        for array in (batch.input_ids_BT.numpy(), batch.mask_BT.numpy(), batch.rows):
            digest.update(array.tobytes())
        if batch.token_types_BT is not None:
            digest.update(batch.token_types_BT.numpy().tobytes())
    return digest.hexdigest()[:40]


def hash_of_weights(module: nn.Module) -> str:
    """Return the sha256 of a module's tensors, including their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
