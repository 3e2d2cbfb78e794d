"""Load or build a backbone: an encoder with its tokenizer, pretrained or with random weights."""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import doc
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
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
from imdbcls.models.encoder_weights import load_weights, random_encoder
from imdbcls.models.encoders import (
    drop_pooler,
    give_padding,
    longest_document,
    prepare_config,
    require_encoder,
    require_vocabulary,
)
from imdbcls.runtime.hub import download, offline
from imdbcls.runtime.model_files import architecture, local_model

TINY_VOCABULARY = 2000


@dataclass(frozen=True)
class Backbone:
    """An encoder (float32, on the CPU, without a pooler), its tokenizer, and whether the encoder is accelerated.

    `own_dropout` contains the dropout probabilities of the model's config that `set_dropout` replaced.
    """

    name: str
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cpu_fallback_reason: str | None  # why training on the CPU does not use the fast layers; None if it uses them
    cuda_fallback_reason: str | None  # why padding is also processed on CUDA; None if it is not
    causal: bool = False  # whether each token attends only to itself and to earlier tokens
    own_dropout: Mapping[str, float] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        return self.encoder.config.hidden_size

    @property
    def max_length(self) -> int | None:
        """The maximum number of tokens in a document, including special tokens; None if there is no limit."""
        return longest_document(self.encoder)

    def save(self, folder: Path) -> None:
        """Save the architecture and the tokenizer, without weights, for `load_backbone(pretrained=False)`.

        The saved dropout probabilities are the model's own, so that they stay the default of a run that starts from
        this encoder. To rebuild the same model, load it with the same `dropout` and `attention_dropout`.
        """
        config = deepcopy(self.encoder.config)
        config.update(dict(self.own_dropout))
        config.save_pretrained(folder)
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

    Raise UserError if the model cannot be found or read.
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
    own_dropout = set_dropout(config, dropout, attention_dropout)
    prepare_config(config)
    encoder = load_weights(path, folder, config) if pretrained else random_encoder(path, config)
    drop_pooler(encoder)
    require_vocabulary(name, encoder, tokenizer)
    give_padding(tokenizer)
    is_meta = encoder.device.type == "meta"  # the caller needs only the tokenizer
    causal = not is_meta and require_encoder(name, encoder, int(tokenizer.pad_token_id))
    return replace(make_backbone(name, encoder, tokenizer, fast), causal=causal, own_dropout=own_dropout)


def make_backbone(name: str, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fast: bool) -> Backbone:
    if not fast:
        reason = "backbone.fast is false"
        return Backbone(name, encoder, tokenizer, cpu_fallback_reason=reason, cuda_fallback_reason=reason)
    fallbacks = accelerate(encoder)
    return Backbone(
        name, encoder, tokenizer, cpu_fallback_reason=fallbacks.cpu_training, cuda_fallback_reason=fallbacks.cuda
    )


def locate(path: str) -> Path:
    """Return the local folder of the model at `path`. Download the model first if `path` is a hub id."""
    folder = local_model(path)
    return download(path) if folder is None else folder


HIDDEN_DROPOUT = (
    *("hidden_dropout_prob", "embedding_dropout", "mlp_dropout"),
    *("dropout", "dropout_rate", "hidden_dropout", "resid_pdrop", "embd_pdrop", "activation_dropout"),
)
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def set_dropout(config: PretrainedConfig, dropout: float | None, attention_dropout: float | None) -> dict[str, float]:
    """Set the dropout probabilities in the model's config, under the keys that its architecture uses.

    Return the values that these keys had before.

    Some architectures (T5, XLNet) have a single dropout probability, which `dropout` sets. Raise UserError if a
    probability is above 0 and the architecture has no such dropout.
    """
    before: dict[str, float] = {}
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
        before |= {name: getattr(config, name) for name in found}  # two names may be aliases of one value
        for name in found:
            setattr(config, name, probability)
    return before


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
    own_dropout = set_dropout(config, dropout, attention_dropout)
    config._attn_implementation = "sdpa"
    encoder = BertModel(config, add_pooling_layer=False)
    return replace(make_backbone(name, encoder, word_tokenizer(), fast), own_dropout=own_dropout)


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
