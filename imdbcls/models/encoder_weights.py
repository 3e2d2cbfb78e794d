"""Build an encoder with random weights, or with the weights of a model folder or of a finished run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from imdbcls.errors import UserError
from imdbcls.models.encoders import drop_pooler, text_encoder
from imdbcls.runs.untrusted import tensor_shapes
from imdbcls.runtime.hub import offline
from imdbcls.runtime.model_files import architecture, is_run, weights_of_run

# The errors that transformers raises for an invalid config.json.
BUILD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError)


def random_encoder(path: str, config: PretrainedConfig) -> PreTrainedModel:
    try:
        return text_encoder(AutoModel.from_config(config, dtype=torch.float32))
    except BUILD_ERRORS as error:
        raise UserError(f"backbone.path={path}: config.json does not describe a valid encoder: {error}") from error


def require_architecture(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError if the encoder in `config.json` does not have the tensor shapes of a run's best weights.

    `shapes` are the shapes of all tensors of the classifier; the names of the encoder's tensors begin with `encoder.`.
    The encoder is built on PyTorch's meta device, which uses no memory, because an untrusted `config.json` can describe
    terabytes of weights.
    """
    refusal = UserError(
        f"{folder / 'config.json'} is missing, or does not describe an encoder that fits the run's weights."
    )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.num_hidden_layers > len(shapes):
            raise refusal
        with torch.device("meta"):
            encoder = text_encoder(AutoModel.from_config(config))
    except Exception as error:  # transformers may raise any exception for an invalid architecture
        raise refusal from error
    for name, tensor in encoder.state_dict().items():
        if not name.startswith("pooler.") and shapes.get(f"encoder.{name}") != tuple(tensor.shape):
            raise refusal


def load_weights_of_run(path: str, folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    """Build the encoder of a finished run with the run's best weights.

    Raise UserError if the weights do not fit the encoder in `config.json`, or contain NaN or infinity.
    """
    file = weights_of_run(folder)
    require_architecture(architecture(folder), tensor_shapes(file))
    encoder = random_encoder(path, config)
    drop_pooler(encoder)
    saved = load_file(file)
    weights = {name.removeprefix("encoder."): value for name, value in saved.items() if name.startswith("encoder.")}
    require_finite(weights, file)
    encoder.load_state_dict(weights)
    return encoder


def load_weights(path: str, folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    if is_run(folder):
        return load_weights_of_run(path, folder, config)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"backbone.path={path} has no *.safetensors weights, and other formats are not loaded (a pytorch_model.bin "
            "can run code). If you trust the weights, convert them once with transformers: "
            f"AutoModel.from_pretrained({path!r}).save_pretrained(FOLDER), and the same with AutoTokenizer; then set "
            "backbone.path=FOLDER. Or set backbone.pretrained=false for random weights."
        )
    for file in folder.glob("*.safetensors"):
        tensor_shapes(file.resolve())
    try:
        with offline():
            encoder, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report lists the mismatches, which raise UserError below
            )
    except (SafetensorError, OSError, *BUILD_ERRORS) as error:
        raise UserError(f"backbone.path={path}: the weights cannot be read: {error}") from error
    encoder, model = text_encoder(encoder), encoder
    unread = "pooler." if encoder is model else "decoder."  # the part of the model that is not used
    mismatched = sorted(entry for entry in report["mismatched_keys"] if not entry[0].startswith(unread))
    if mismatched:
        name, saved, expected = mismatched[0]
        raise UserError(
            f"backbone.path={path}: config.json does not match the weights: {name} has shape {tuple(saved)} in the "
            f"weights and {tuple(expected)} according to config.json ({len(mismatched)} tensors differ). Use the "
            "config.json that belongs to the weights."
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unread))
    if missing:
        raise UserError(
            f"backbone.path={path}: {len(missing)} of the encoder's tensors are missing from the weights, for example "
            f"{missing[0]}. The weights are incomplete or belong to another architecture. Use complete weights of the "
            "architecture in config.json."
        )
    require_finite(encoder.state_dict(), folder)
    return encoder


def require_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise UserError if the weights contain NaN or infinity, because predictions could then be NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{source}: the weights contain NaN or infinity; the first such tensor is {name[:200]}. Restore the "
                "weights from a copy, or use other weights."
            )
