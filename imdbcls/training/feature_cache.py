"""Run a frozen encoder once over every document and keep its output on disk, for all epochs, heads and seeds.

L layers, B documents of a batch, T tokens of its padded width, N tokens, D hidden size.
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
from imdbcls.kernels import source_digest
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.models.environment import environment_of
from imdbcls.runtime.device import Hardware, all_threads
from imdbcls.runtime.locks import build_lock

logger = logging.getLogger(__name__)

# Bytes to leave free on the disk, for the rest of the run and for others.
RESERVE = 2e9
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
    """Return the encoder's output for the documents of the splits, from `folder` or computed now and stored there.

    The batches are those of scoring, so scoring with the features gives the same bits as without. The key of an entry
    depends on everything that decides these bits: the batches, the weights (their hash), the architecture, device,
    precision and software. The outputs of the last layer and of all layers are different entries. `cache_gb` (10^9
    bytes) limits the size of the folder. Raises UserError if that or the disk is too small, before anything is written,
    and if the folder cannot be written.
    """
    with all_threads():  # as the documents are encoded
        encoder_key = key_of_encoder(model, backbone, hardware, weights)
    entries = {name: folder / key_of_batches(encoder_key, batches) for name, batches in splits.items()}
    found = {name: load_features(entry) for name, entry in entries.items()}
    missing = [name for name in splits if found[name] is None]

    def on_wait() -> None:
        logger.info(f"Another process is encoding the same documents into {folder}; waiting for it.")

    for place, name in enumerate(missing):
        batches, to_come = splits[name], [splits[other] for other in missing[place:]]
        try:
            with build_lock(folder / f".{entries[name].name}.lock", on_wait), all_threads():
                found[name] = load_features(entries[name])  # by another process, meanwhile
                if found[name] is None:
                    logger.info(f"Encoding the {batches.num_documents:,} documents of {name} once, into {folder}.")
                    encoded = encode(model, batches, hardware, on_progress)
                    first = next(encoded)
                    require_room(folder, need_of(to_come, first), cache_gb, of_layers(first))
                    write_features(entries[name], batches.num_documents, chain([first], encoded))
                    found[name] = load_features(entries[name])
        except OSError as error:
            raise UserError(
                f"The feature cache {folder} cannot be written ({error}); set data.cache_dir or IMDBCLS_CACHE, or "
                "backbone.cache=false to train without it."
            ) from error
    features = {name: entry for name, entry in found.items() if entry is not None}
    assert features.keys() == splits.keys(), f"what was written of {missing} could not be read back"
    return features


def encode(model: Classifier, batches: EvalBatches, hardware: Hardware, on_progress: OnProgress) -> Iterator[Encoded]:
    model.eval()
    done = 0
    for batch in batches:
        on_device = batch.to(hardware.device)
        with torch.inference_mode(), hardware.autocast():
            hidden = model.encode(on_device.input_ids_BT, on_device.mask_BT, on_device.token_indices_N)
            vectors = hidden[..., on_device.mask_BT, :].movedim(-2, 0).cpu()  # hidden_ND or hidden_NLD
        sizes = batch.mask_BT.sum(dim=1)
        if batch.documents_W is not None:
            sizes = torch.zeros(len(batch), dtype=torch.int64).index_add(0, batch.documents_W, sizes)
        yield Encoded(batch.rows, sizes.numpy(), vectors)
        done += len(batch)
        on_progress(done, batches.num_documents)


def need_of(splits: list[EvalBatches], example: Encoded) -> int:
    """Return the bytes that the output for some splits takes, from the output for some documents."""
    num_tokens = sum(batch.num_tokens for batches in splits for batch in batches)
    return num_tokens * example.vectors[0].numel() * example.vectors.element_size()


def of_layers(example: Encoded) -> str:
    return f" of all {example.vectors.shape[1]} layers" if example.vectors.dim() == 3 else ""


def require_room(folder: Path, need: int, cache_gb: float, layers: str) -> None:
    held, spare = held_in(folder), shutil.disk_usage(folder).free - RESERVE
    without = "backbone.cache=false trains without the cache, more slowly, to the same result but for rounding"
    if held + need > cache_gb * 1e9:
        raise UserError(
            f"The frozen encoder's output{layers} needs {shown(need)}; {folder} holds {shown(held)} and may hold "
            f"backbone.cache_gb={cache_gb:g} in all: raise that, or remove the folder; {without}."
        )
    if need > spare:
        raise UserError(
            f"The frozen encoder's output{layers} needs {shown(need)}, and the disk of {folder} has "
            f"{shown(max(spare, 0))} to spare ({shown(RESERVE)} are left free): make room, or set data.cache_dir or "
            f"IMDBCLS_CACHE to another disk; {without}."
        )


def held_in(folder: Path) -> int:
    """Return the bytes of all entries, including those being built."""
    held = 0
    for path in folder.rglob(VECTORS):
        with contextlib.suppress(FileNotFoundError):  # removed at this moment
            held += path.stat().st_size
    return held


def shown(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def key_of_encoder(model: Classifier, backbone: Backbone, hardware: Hardware, weights: str) -> str:
    """Hash everything that decides the encoder's output, except its input."""
    config = backbone.encoder.config
    architecture = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
    about = {
        "format": FEATURES,
        "weights": weights,
        "architecture": [type(backbone.encoder).__name__, architecture, config._attn_implementation],
        "kernels": [backbone.cpu_fallback_reason, backbone.cuda_fallback_reason, source_digest()],
        "environment": environment_of(hardware, None, model),
        "hardware": [hardware.device.type, hardware.precision],
        **({"layers": "all"} if model.reads_all_layers else {}),
        "versions": [torch.__version__, transformers.__version__],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def key_of_batches(encoder_key: str, batches: EvalBatches) -> str:
    """Return the key of an entry: a hash of the ids and masks that the encoder gets, and of `encoder_key`."""
    digest = hashlib.sha256(encoder_key.encode())
    for batch in batches:
        digest.update(f"{tuple(batch.input_ids_BT.shape)}".encode())
        for array in (batch.input_ids_BT.numpy(), batch.mask_BT.numpy(), batch.rows):
            digest.update(array.tobytes())
    return digest.hexdigest()[:40]


def hash_of_weights(module: nn.Module) -> str:
    """Return the sha256 of a module's tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
