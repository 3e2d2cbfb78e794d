"""Backbones: an encoder and its tokenizer, from a hub id, a local folder or an installed package, or random."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import doc
from safetensors import SafetensorError
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
from imdbcls.runtime.model_files import local_model

TINY_VOCABULARY = 2000
# What the library raises for an invalid configuration.
BUILD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Backbone:
    """An encoder (float32, on the CPU, without a pooler), its tokenizer, and which accelerations apply to it."""

    name: str
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cpu_fallback_reason: str | None  # why training on the CPU does not use the fast layers; None if it does
    cuda_fallback_reason: str | None  # why CUDA computes with padding; None if it does not
    causal: bool = False  # whether each token attends only to the tokens before it

    @property
    def hidden_size(self) -> int:
        return self.encoder.config.hidden_size

    @property
    def max_length(self) -> int | None:
        """The maximum number of tokens of a document, including special tokens; None if there is no limit."""
        return longest_document(self.encoder)

    def save(self, folder: Path) -> None:
        """Write the architecture and the tokenizer, without weights, for `load_backbone(pretrained=False)`."""
        self.encoder.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


ModelPath = Annotated[str, doc("a folder, package:NAME/FOLDER or a hub id")]


def load_backbone(
    *, name: str, path: ModelPath, pretrained: bool, dropout: float | None, attention_dropout: float | None, fast: bool
) -> Backbone:
    """Load an encoder and its tokenizer. Only safetensors weights are read; code that ships with a model never runs.

    `path` is a local folder, `package:NAME/FOLDER` (inside an installed Python package) or a hub id. Without
    `pretrained` the architecture gets random weights, from PyTorch's current random state. The dropout probabilities
    replace the model's own if they are not None. With `fast`, BERT and RoBERTa run on the CPU through the project's own
    layers and on CUDA without padding (`imdbcls.kernels`), with the same results. Raises UserError if the model cannot
    be found or read.
    """
    folder = locate(path)
    require_sound_files(folder)
    try:
        with offline(), panics_raised():  # whatever config.json says, nothing is downloaded
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # what the libraries raise for a damaged file is anything
        raise UserError(
            f"backbone.path={path} holds no readable configuration and tokenizer: {' '.join(str(error).split())[:300]}"
        ) from error
    set_dropout(config, dropout, attention_dropout)
    prepare_config(config)
    encoder = load_weights(path, folder, config) if pretrained else random_encoder(path, config)
    drop_pooler(encoder)
    require_vocabulary(name, encoder, tokenizer)
    give_padding(tokenizer)
    is_shape = encoder.device.type == "meta"  # only its tokenizer is needed
    causal = not is_shape and require_encoder(name, encoder, int(tokenizer.pad_token_id))
    return replace(make_backbone(name, encoder, tokenizer, fast), causal=causal)


def random_encoder(path: str, config: PretrainedConfig) -> PreTrainedModel:
    try:
        return text_encoder(AutoModel.from_config(config, dtype=torch.float32))
    except BUILD_ERRORS as error:
        raise UserError(f"backbone.path={path}: the encoder of its config.json cannot be built: {error}") from error


def make_backbone(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fast: bool) -> Backbone:
    if not fast:
        reason = "backbone.fast is false"
        return Backbone(name, encoder, tokenizer, cpu_fallback_reason=reason, cuda_fallback_reason=reason)
    fallbacks = accelerate(encoder)
    return Backbone(
        name, encoder, tokenizer, cpu_fallback_reason=fallbacks.cpu_training, cuda_fallback_reason=fallbacks.cuda
    )


def freeze(backbone: Backbone, layers: bool | int) -> None:
    """Freeze the whole encoder (True), its embeddings and this many of its lowest layers (int), or nothing (False).

    Gradients then stop at the lowest layer that is trained. Raises UserError for a number that leaves no layer.
    """
    if layers is False:
        return
    if layers is True:
        backbone.encoder.requires_grad_(False)
        return
    embeddings, stack = parts_of(backbone.encoder)
    if layers >= len(stack):
        raise UserError(
            f"backbone.freeze={layers} leaves nothing to train of the {len(stack)} layers of backbone={backbone.name}: "
            f"give a number up to {len(stack) - 1}, or true to train the head alone."
        )
    for part in (*embeddings, *stack[:layers]):
        part.requires_grad_(False)


def recompute_activations(backbone: Backbone) -> Backbone:
    """Enable gradient checkpointing: keep only the input of each layer, and compute the layer again in backward.

    Chen et al. 2016: it saves memory and takes about a third more time; the gradients are the same, with dropout too.
    """
    if not backbone.encoder.supports_gradient_checkpointing:
        raise UserError(
            f"backbone.gradient_checkpointing=true: {type(backbone.encoder).__name__} does not support it; set "
            "trainer.micro_batch_size to need less memory."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # later releases give it another name as well
        backbone.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    reason = "backbone.gradient_checkpointing computes the library's layers again"
    return replace(backbone, cpu_fallback_reason=reason, cuda_fallback_reason=reason)


def parts_of(encoder: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return an encoder's embedding modules, which all layers share, and its layers, lowest first.

    DeBERTa also embeds relative positions, normalised, which every layer reads. Raises UserError for an encoder whose
    structure is not known.
    """
    has_embeddings = isinstance(getattr(encoder, "embeddings", None), nn.Module)
    if has_embeddings and isinstance(getattr(encoder, "layers", None), nn.ModuleList):  # ModernBERT
        return [encoder.embeddings], list(encoder.layers)
    stack: Any = getattr(encoder, "encoder", None) or getattr(encoder, "transformer", None)  # the latter: DistilBERT
    if not has_embeddings or not isinstance(getattr(stack, "layer", None), nn.ModuleList):
        raise UserError(
            f"The layers of {type(encoder).__name__} cannot be identified: set backbone.freeze to true or false and "
            "optimizer.layer_decay=1."
        )
    relative = [getattr(stack, name, None) for name in ("rel_embeddings", "LayerNorm")]
    relative.append(getattr(encoder, "embeddings_project", None))  # ELECTRA
    return [encoder.embeddings, *(part for part in relative if part is not None)], list(stack.layer)


def require_architecture(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse (UserError) a folder whose `config.json` describes another encoder than the one with these tensors.

    The encoder is built on PyTorch's meta device, without memory: an untrusted file may ask for terabytes. `shapes` are
    those of a run's best weights, in which the encoder's names begin with `encoder.`.
    """
    refusal = UserError(f"{folder / 'config.json'} is missing, or describes another encoder than the run's weights.")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.num_hidden_layers > len(shapes):
            raise refusal
        with torch.device("meta"):
            encoder = text_encoder(AutoModel.from_config(config))
    except Exception as error:  # what the library raises for a nonsensical architecture is anything
        raise refusal from error
    for name, tensor in encoder.state_dict().items():
        if not name.startswith("pooler.") and shapes.get(f"encoder.{name}") != tuple(tensor.shape):
            raise refusal


def load_weights(path: str, folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"backbone.path={path} has no *.safetensors weights, the only kind that is loaded (a pytorch_model.bin can "
            "run code). If you trust its weights, save them once with transformers: "
            f"AutoModel.from_pretrained({path!r}).save_pretrained(FOLDER), likewise AutoTokenizer, and give "
            "backbone.path=FOLDER; or set backbone.pretrained=false for random weights."
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
                ignore_mismatched_sizes=True,  # they are in the report, and refused below
            )
    except (SafetensorError, OSError, *BUILD_ERRORS) as error:
        raise UserError(f"backbone.path={path}: the weights cannot be read: {error}") from error
    encoder, model = text_encoder(encoder), encoder
    unread = "pooler." if encoder is model else "decoder."  # parts that are not used
    mismatched = sorted(entry for entry in report["mismatched_keys"] if not entry[0].startswith(unread))
    if mismatched:
        name, saved, expected = mismatched[0]
        raise UserError(
            f"backbone.path={path}: config.json is not that of the weights: {name} has shape {tuple(saved)} there and "
            f"{tuple(expected)} by the configuration ({len(mismatched)} such tensors)."
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unread))
    if missing:
        raise UserError(
            f"backbone.path={path}: the weights lack {len(missing)} of the encoder's tensors, {missing[0]} first; "
            "the file belongs to another architecture or is incomplete."
        )
    require_finite(encoder.state_dict(), folder)
    return encoder


def require_finite(tensors: Mapping[str, Tensor], place: Path) -> None:
    """Refuse (UserError) weights that contain NaN or infinity: every score would be NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{place}: the weights hold values that are NaN or infinite, first in {name[:200]}.")


def locate(path: str) -> Path:
    """Return the local folder of the model that `path` names; a hub id is downloaded."""
    folder = local_model(path)
    return download(path) if folder is None else folder


HIDDEN_DROPOUT = (
    *("hidden_dropout_prob", "embedding_dropout", "mlp_dropout"),
    *("dropout", "dropout_rate", "hidden_dropout", "resid_pdrop", "embd_pdrop", "activation_dropout"),
)
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def set_dropout(config: PretrainedConfig, dropout: float | None, attention_dropout: float | None) -> None:
    """Write the dropout probabilities into the config, under the names that the architecture uses.

    Raises UserError for one above 0 that the architecture does not have. If an architecture has one probability for
    both (T5, XLNet), it is the hidden dropout.
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
                f"backbone.{key}={probability}: {config.model_type} has no such dropout; set it to 0 or null."
            )
        for name in found:
            setattr(config, name, probability)


def tiny_backbone(
    *, name: str, pretrained: bool, dropout: float | None, attention_dropout: float | None, fast: bool
) -> Backbone:
    """Build a random two-layer encoder over the most frequent words of the sample corpus, for tests."""
    if pretrained:
        raise UserError("backbone=tiny has no pretrained weights: keep backbone.pretrained=false.")
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
    frequent = sorted(words, key=lambda word: (-words[word], word))[: TINY_VOCABULARY - len(specials)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(specials + frequent)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
