"""The model of masked language modelling: a backbone's encoder and a head that predicts the masked tokens.

Shape suffixes: B documents, T tokens, N non-padding tokens, M masked tokens, D hidden size, E embedding size, V tokens
in the vocabulary.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier
from imdbcls.runs.untrusted import tensor_shapes
from imdbcls.runtime.model_files import is_run, weights_of_run

logger = logging.getLogger(__name__)

NORM_EPSILON = 1e-12  # as in BERT; used if the encoder's config has no epsilon
INITIAL_STD = 0.02  # standard deviation of new weights, as in BERT
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # names of the tanh approximation of GELU in model configs
# The names of the head's dense layer, layer norm and bias in the weights of different models. The rows are for BERT
# (and DeBERTa), DeBERTa with `legacy: false` in its config, RoBERTa, DistilBERT, ALBERT, the generators of ELECTRA,
# ModernBERT (whose dense layer and layer norm have no bias), and runs of `imdbcls.pretrain`.
NAMES = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    ("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "lm_predictions.lm_head.bias"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    ("head.dense", "head.norm", "decoder.bias"),
    ("head.dense", "head.norm", "head.bias"),
)


class MaskedTokenHead(nn.Module):
    """BERT's head for masked tokens: Linear(D,E) → GELU → LayerNorm → the token embeddings, with a bias per token.

    The weights of the last layer are the encoder's token embeddings (Devlin et al. 2019; Press & Wolf 2017). They are
    an argument of `forward`, so a checkpoint contains them once. `gelu` is the argument `approximate` of PyTorch's
    GELU: none or tanh.
    """

    def __init__(
        self, *, hidden_size: int, embedding_size: int, num_tokens: int, epsilon: float, gelu: str = "none"
    ) -> None:
        super().__init__()
        self._gelu = gelu
        self.dense = nn.Linear(hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        nn.init.normal_(self.dense.weight, std=INITIAL_STD)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_MD: Tensor, embeddings_VE: Tensor) -> Tensor:
        transformed_ME = self.norm(functional.gelu(self.dense(hidden_MD), approximate=self._gelu))
        return functional.linear(transformed_ME, embeddings_VE, self.bias)


class MaskedLanguageModel(Classifier):
    """Encoder → hidden states of the masked tokens → logits over the vocabulary.

    The names of the encoder's weights begin with `encoder.`, as in a classifier, so `backbone.path` can read them.
    """

    def forward(
        self,
        input_ids_BT: Tensor,
        mask_BT: Tensor,
        documents_W: Tensor | None = None,
        num_documents: int | None = None,
        token_indices_N: Tensor | None = None,
        features: Tensor | None = None,
        token_types_BT: Tensor | None = None,
        masked_indices_M: Tensor | None = None,
    ) -> Tensor:
        """Compute float32 logits_MV of the masked tokens.

        The logits of all tokens would take BT / M times as long. `masked_indices_M` are the flat indices of the masked
        tokens in input_ids_BT. The other arguments are the same as for `Classifier.forward`.
        """
        assert masked_indices_M is not None and features is None, "a masked language model needs masked tokens"
        hidden_BTD = self.encode(input_ids_BT, mask_BT, token_indices_N, token_types_BT)
        hidden_MD = hidden_BTD.flatten(0, 1)[masked_indices_M]
        logits_MV: Tensor = self.head(hidden_MD, embeddings_of(self.encoder)).float()
        return logits_MV


def embeddings_of(encoder: Any) -> Tensor:
    """Return the token embeddings of an encoder, embeddings_VE."""
    weight: Tensor = encoder.get_input_embeddings().weight
    return weight


def masked_language_model(backbone: Backbone, folder: Path | None) -> MaskedLanguageModel:
    """Build the model. The head starts from the weights in the model folder `folder`, or else from random weights."""
    num_tokens, embedding_size = embeddings_of(backbone.encoder).shape
    head = MaskedTokenHead(
        hidden_size=backbone.hidden_size,
        embedding_size=embedding_size,
        num_tokens=num_tokens,
        epsilon=epsilon_of(backbone.encoder.config),
        gelu="tanh" if getattr(backbone.encoder.config, "hidden_act", None) in TANH_GELU else "none",
    )
    found = {} if folder is None else shipped_weights(folder, head)
    if found:
        head.load_state_dict(found)
    source = "pretrained weights" if found else "random weights, because no complete weights for it were loaded"
    logger.info(f"{backbone.name}: the head for masked tokens starts from {source}")
    return MaskedLanguageModel(backbone.encoder, head)


def epsilon_of(config: Any) -> float:
    """Return the epsilon of an encoder's layer norms, from its config in transformers."""
    stated = (getattr(config, name, None) for name in ("layer_norm_eps", "norm_eps"))
    return next((float(value) for value in stated if value is not None), NORM_EPSILON)


def shipped_weights(folder: Path, head: MaskedTokenHead) -> dict[str, Tensor]:
    """Return the head's weights in the safetensors files of a model folder or a run; {} if they are not complete.

    The biases of the dense layer and of the layer norm are zero if the folder has none, as for ModernBERT.
    """
    files = [weights_of_run(folder)] if is_run(folder) else sorted(folder.glob("*.safetensors"))
    stored = {name: (file, shape) for file in files for name, shape in tensor_shapes(file.resolve()).items()}
    expected = head.state_dict()
    for dense, norm, bias in NAMES:
        names = {"dense.weight": f"{dense}.weight", "dense.bias": f"{dense}.bias", "bias": bias}
        # Weights that were converted from TensorFlow call the gain and the bias of a layer norm gamma and beta.
        gain, shift = ("gamma", "beta") if f"{norm}.gamma" in stored else ("weight", "bias")
        names |= {"norm.weight": f"{norm}.{gain}", "norm.bias": f"{norm}.{shift}"}
        absent = {own for own in ("dense.bias", "norm.bias") if names[own] not in stored}
        found = {own: name for own, name in names.items() if own not in absent}
        if all(stored.get(name, (None, None))[1] == tuple(expected[own].shape) for own, name in found.items()):
            zeros = {own: torch.zeros_like(expected[own]) for own in absent}
            return zeros | {own: tensor_in(stored[name][0], name) for own, name in found.items()}
    return {}


def tensor_in(file: Path, name: str) -> Tensor:
    """Return one tensor of a safetensors file, in float32."""
    with safe_open(file.resolve(), "pt") as tensors:
        found: Tensor = tensors.get_tensor(name).float()
    return found
