"""Load or build a backbone: an encoder with its tokenizer, pretrained or with random weights."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import doc
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from imdbcls.config.paths import TINY_LIMIT
from imdbcls.data.sample import read_sample
from imdbcls.data.tokenizer_check import panics_raised, require_sound_files
from imdbcls.errors import UserError
from imdbcls.kernels import accelerate
from imdbcls.models.encoders import (
    drop_pooler,
    give_padding,
    longest_document,
    prepare_config,
    require_encoder,
    require_vocabulary,
    text_encoder,
)
from imdbcls.runs.untrusted import tensor_shapes
from imdbcls.runtime.hub import download, offline
from imdbcls.runtime.model_files import architecture, is_run, local_model, weights_of_run

TINY_VOCABULARY = 2000
# The errors that transformers raises for an invalid config.json.
BUILD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Backbone:
    """An encoder (float32, on the CPU, without a pooler), its tokenizer, and the reasons if it is not accelerated."""

    name: str
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cpu_fallback_reason: str | None  # why training on the CPU does not use the fast layers; None if it uses them
    cuda_fallback_reason: str | None  # why CUDA also computes the padding; None if it does not
    causal: bool = False  # whether each token attends only to itself and to earlier tokens

    @property
    def hidden_size(self) -> int:
        return self.encoder.config.hidden_size

    @property
    def max_length(self) -> int | None:
        """The maximum number of tokens in a document, including special tokens; None if there is no limit."""
        return longest_document(self.encoder)

    def save(self, folder: Path) -> None:
        """Save the architecture and the tokenizer, without weights, for `load_backbone(pretrained=False)`."""
        self.encoder.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


ModelPath = Annotated[str, doc("a folder, package:NAME/FOLDER or a hub id")]


def load_backbone(
    *, name: str, path: ModelPath, pretrained: bool, dropout: float | None, attention_dropout: float | None, fast: bool
) -> Backbone:
    """Load an encoder and its tokenizer. Only safetensors weights are read; code from a model repository never runs.

    - `path`: a local folder, `package:NAME/FOLDER` (a folder in an installed Python package) or a hub id. If the folder
      is the run folder of a finished run, the best weights of the run's encoder are loaded, without the head.
    - `pretrained`: load the weights; if false, initialize them from PyTorch's current random state.
    - `dropout`, `attention_dropout`: the dropout probabilities. None keeps the model's own probability.
    - `fast`: run BERT and RoBERTa with the layers of `imdbcls.kernels` on the CPU, and BERT, RoBERTa and ModernBERT
      without padding on CUDA. The output is the same up to rounding; in training, the random dropout masks differ.

    Raises UserError if the model cannot be found or read.
    """
    folder = locate(path)
    described = architecture(folder)
    require_sound_files(described)
    try:
        with offline(), panics_raised():  # a config.json must not cause a download
            config = AutoConfig.from_pretrained(described, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(described, trust_remote_code=False)
    except Exception as error:  # the libraries may raise any exception for a damaged file
        raise UserError(
            f"backbone.path={path}: config.json or the tokenizer is missing or invalid: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    set_dropout(config, dropout, attention_dropout)
    prepare_config(config)
    encoder = load_weights(path, folder, config) if pretrained else random_encoder(path, config)
    drop_pooler(encoder)
    require_vocabulary(name, encoder, tokenizer)
    give_padding(tokenizer)
    is_meta = encoder.device.type == "meta"  # the caller needs only the tokenizer
    causal = not is_meta and require_encoder(name, encoder, int(tokenizer.pad_token_id))
    return replace(make_backbone(name, encoder, tokenizer, fast), causal=causal)


def random_encoder(path: str, config: PretrainedConfig) -> PreTrainedModel:
    try:
        return text_encoder(AutoModel.from_config(config, dtype=torch.float32))
    except BUILD_ERRORS as error:
        raise UserError(f"backbone.path={path}: config.json does not describe a valid encoder: {error}") from error


def make_backbone(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fast: bool) -> Backbone:
    if not fast:
        reason = "backbone.fast is false"
        return Backbone(name, encoder, tokenizer, cpu_fallback_reason=reason, cuda_fallback_reason=reason)
    fallbacks = accelerate(encoder)
    return Backbone(
        name, encoder, tokenizer, cpu_fallback_reason=fallbacks.cpu_training, cuda_fallback_reason=fallbacks.cuda
    )


def freeze(backbone: Backbone, layers: bool | int) -> None:
    """Freeze the encoder (True), its embeddings and the lowest `layers` layers (int), or nothing (False).

    The backward pass ends at the lowest trainable layer. Raises UserError if `layers` is not smaller than the number of
    layers.
    """
    if layers is False:
        return
    if layers is True:
        backbone.encoder.requires_grad_(False)
        return
    embeddings, stack = parts_of(backbone.encoder)
    if layers >= len(stack):
        raise UserError(
            f"backbone.freeze={layers} freezes all {len(stack)} layers of backbone={backbone.name}. Set a number up "
            f"to {len(stack) - 1}, or true to train only the head."
        )
    for part in (*embeddings, *stack[:layers]):
        part.requires_grad_(False)


def recompute_activations(backbone: Backbone) -> Backbone:
    """Enable gradient checkpointing (Chen et al. 2016): store only layer inputs, and recompute the layers in backward.

    This saves memory, but a training step takes about a third more time. The gradients do not change, even with
    dropout.
    """
    if not backbone.encoder.supports_gradient_checkpointing:
        raise UserError(
            f"{type(backbone.encoder).__name__} does not support backbone.gradient_checkpointing=true. To save memory, "
            "reduce trainer.micro_batch_size instead."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of transformers rename the method
        backbone.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    reason = "backbone.gradient_checkpointing works only with the layers of transformers"
    return replace(backbone, cpu_fallback_reason=reason, cuda_fallback_reason=reason)


def parts_of(encoder: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return an encoder's embedding modules, and its layers from bottom to top.

    A module outside the layers counts as an embedding module if the layers read its output, for example DeBERTa's
    embeddings of relative positions and their layer norm. Raises UserError if the encoder's structure is not known.
    """
    has_embeddings = isinstance(getattr(encoder, "embeddings", None), nn.Module)
    if has_embeddings and isinstance(getattr(encoder, "layers", None), nn.ModuleList):  # ModernBERT
        return [encoder.embeddings], list(encoder.layers)
    stack: Any = getattr(encoder, "encoder", None) or getattr(encoder, "transformer", None)  # `transformer`: DistilBERT
    if not has_embeddings or not isinstance(getattr(stack, "layer", None), nn.ModuleList):
        raise UserError(
            f"The layers of {type(encoder).__name__} cannot be identified: set backbone.freeze to true or false, "
            "backbone.reinit_layers=0 and optimizer.layer_decay=1."
        )
    relative = [getattr(stack, name, None) for name in ("rel_embeddings", "LayerNorm")]
    relative.append(getattr(encoder, "embeddings_project", None))  # ELECTRA
    return [encoder.embeddings, *(part for part in relative if part is not None)], list(stack.layer)


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

    Raises UserError if the weights do not fit the encoder in `config.json`, or contain NaN or infinity.
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
                ignore_mismatched_sizes=True,  # the report lists them, and they raise an error below
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
            f"weights and {tuple(expected)} according to config.json ({len(mismatched)} tensors differ)."
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unread))
    if missing:
        raise UserError(
            f"backbone.path={path}: {len(missing)} of the encoder's tensors are missing in the weights, for example "
            f"{missing[0]}. The weights are incomplete or belong to another architecture."
        )
    require_finite(encoder.state_dict(), folder)
    return encoder


def require_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise UserError if the weights contain NaN or infinity, because predictions could then be NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source}: the weights contain NaN or infinity; the first such tensor is {name[:200]}.")


def locate(path: str) -> Path:
    """Return the local folder of the model at `path`. Download the model first if `path` is a hub id."""
    folder = local_model(path)
    return download(path) if folder is None else folder


HIDDEN_DROPOUT = (
    *("hidden_dropout_prob", "embedding_dropout", "mlp_dropout"),
    *("dropout", "dropout_rate", "hidden_dropout", "resid_pdrop", "embd_pdrop", "activation_dropout"),
)
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def set_dropout(config: PretrainedConfig, dropout: float | None, attention_dropout: float | None) -> None:
    """Set the dropout probabilities in the model's config, under the keys that its architecture uses.

    Some architectures (T5, XLNet) have a single dropout probability, which `dropout` sets. Raises UserError if a
    probability is above 0 and the architecture has no such dropout.
    """
    for key, probability, names in (
        ("dropout", dropout, HIDDEN_DROPOUT),
        ("attention_dropout", attention_dropout, ATTENTION_DROPOUT),
    ):
        if probability is None:
            continue
        found = [name for name in names if hasattr(config, name)]
        if not found and probability > 0:
            raise UserError(
                f"backbone.{key}={probability}: {config.model_type} has no such dropout. Set the key to 0 or null."
            )
        for name in found:
            setattr(config, name, probability)


def tiny_backbone(
    *, name: str, pretrained: bool, dropout: float | None, attention_dropout: float | None, fast: bool
) -> Backbone:
    """Build a two-layer encoder with random weights, for tests; see `word_tokenizer` for its vocabulary."""
    if pretrained:
        raise UserError("backbone=tiny has no pretrained weights: set backbone.pretrained=false.")
    config = BertConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=TINY_LIMIT,
    )
    set_dropout(config, dropout, attention_dropout)
    config._attn_implementation = "sdpa"
    encoder = BertModel(config, add_pooling_layer=False)
    return make_backbone(name, encoder, word_tokenizer(), fast)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Build a lower-casing word tokenizer whose vocabulary is the most frequent words of the sample corpus."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in read_sample().train.texts for word, _ in splitter.pre_tokenize_str(text.lower()))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    frequent = sorted(words, key=lambda word: (-words[word], word))[: TINY_VOCABULARY - len(specials) - 1]
    vocabulary = {word: index for index, word in enumerate([*specials, *frequent, "[MASK]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
