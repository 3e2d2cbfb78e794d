"""A faster, exact training step and scoring pass for BERT and RoBERTa encoders on the CPU.

B: documents, T: tokens (padded), H: hidden size, N: rows, a token each.

`accelerate(encoder)` keeps the Hugging Face model, its parameters and its state dict, and replaces its `forward`.
Each layer becomes one autograd function with a hand-written backward pass. Where there are compiled kernels for the
processor and the dtype, rows are the real tokens alone (`compiled.py`); else they are all B * T tokens (`layer.py`). In
fp32 outputs and gradients equal the Hugging Face model's to rounding. Whatever the fast path does not know (attention
dropout, a request for attention weights, 4-D masks, ...) goes to the original `forward`. A head that reads only the
first token can ask for it (`first_token_alone=True`), which saves most of the last layer (`first_token.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from imdbcls.kernels import compiled, first_token, layer, loading
from imdbcls.kernels.attention import KeyMask
from imdbcls.kernels.declarations import constant
from imdbcls.kernels.dropout import DropoutMasks
from imdbcls.kernels.products import rows_for
from imdbcls.runtime.padding import offsets_of, places_of

_MODEL_TYPES = {"bert", "roberta"}

# The weights as computed with, by encoder, layer and type, while they are kept: of this thread alone.
_kept: ContextVar[dict[tuple[nn.Module, int, torch.dtype], layer.Weights] | None] = ContextVar("kept", default=None)


@contextmanager
def inference_weights() -> Iterator[None]:
    """Prepare the weights of accelerated encoders once for all passes in this block, in which no weight may change.

    This saves more than a third of the time of a single document. A pass that computes gradients does not use it, and
    a nested block starts with no weights.
    """
    outer = _kept.get()
    try:
        _kept.set({})
        yield
    finally:
        _kept.set(outer)


def accelerate(encoder: PreTrainedModel) -> str | None:
    """Replace `encoder.forward` by the fast path where it applies, in place; parameters are untouched.

    Returns None, or the reason why training does not take the fast path, in words for the user: an encoder that is not
    known keeps its own `forward`.
    """
    reason = _why_not(encoder)
    if reason is None:
        encoder.forward = MethodType(_forward, encoder)
        if encoder.config.attention_probs_dropout_prob > 0:
            return "attention dropout is above 0, so training takes the library's layers and only scoring the fast ones"
    return reason


def is_accelerated(encoder: nn.Module) -> bool:
    """Whether its `forward` is this module's, which takes `first_token_alone`."""
    return getattr(encoder.forward, "__func__", None) is _forward


def trains_fast(encoder: nn.Module) -> bool:
    """Whether training uses this module's `forward` too; scoring does wherever `is_accelerated`."""
    return is_accelerated(encoder) and not _leaves_training(encoder)


def _leaves_training(encoder: Any) -> bool:
    checkpoints = any(
        getattr(each, "gradient_checkpointing", False) for each in (encoder.encoder, *encoder.encoder.layer)
    )
    return encoder.config.attention_probs_dropout_prob > 0 or checkpoints


def _why_not(encoder: PreTrainedModel) -> str | None:
    config = encoder.config
    if config.model_type not in _MODEL_TYPES or not hasattr(encoder, "encoder"):
        return f"no fast path for {config.model_type}"
    if config.is_decoder or config.add_cross_attention:
        return "no fast path for decoders"
    if config.hidden_act != "gelu":
        return f"no fast path for the activation {config.hidden_act}"
    if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return f"PyTorch {torch.__version__} has no fused CPU attention"
    return None


def _forward(
    self: Any,  # the Hugging Face model whose method this becomes
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    first_token_alone: bool = False,
    output_hidden_states: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The encoder's forward pass: hidden states_BTH in fp32 outside autocast and its dtype within.

    With `first_token_alone` the fast path gives hidden states_B1H, in fp32; where the original `forward` serves, or the
    last layer has adapters, all are given. `output_hidden_states` is the library's: the embeddings and every layer.
    """
    config = self.config
    embedded = input_ids if input_ids is not None else inputs_embeds
    return_dict = kwargs.pop("return_dict", None)
    wants_extras = any(value is not None and value is not False for value in kwargs.values())
    simple = (
        embedded is not None
        and embedded.device.type == "cpu"
        and self.dtype == torch.float32
        and not wants_extras
        and (attention_mask is None or attention_mask.dim() == 2)
        and not (self.training and config.attention_probs_dropout_prob > 0)
        and not config.output_attentions
        and not config.output_hidden_states
        and not getattr(self.encoder, "gradient_checkpointing", False)
        and not getattr(self.encoder.layer[0], "gradient_checkpointing", False)
    )
    if not simple:
        if return_dict is not None:
            kwargs["return_dict"] = return_dict
        if output_hidden_states is not None:
            kwargs["output_hidden_states"] = output_hidden_states
        return type(self).forward(
            self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs
        )

    assert embedded is not None  # `simple` has looked
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.dtype
    mask_BT = torch.ones(embedded.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    dropout = config.hidden_dropout_prob if self.training else 0.0
    inputs = _Inputs(input_ids, token_type_ids, position_ids, inputs_embeds)
    all_layers = bool(output_hidden_states)
    layers, last = first_token.set_apart(self.encoder.layer, first_token_alone and not all_layers)
    loaded = kernels_for(self, dtype)
    if loaded is not None:
        states = _compiled_hidden(self, layers, inputs, mask_BT, dropout, loaded, all_layers)
    else:
        states = _hidden(self, layers, inputs, mask_BT, dropout, dtype, all_layers)
    hidden_BTH = states[-1]
    if last is not None:
        with torch.autocast("cpu", enabled=False):
            hidden_BTH = first_token.first_token_of(last, hidden_BTH, mask_BT)
    pooled_BH = self.pooler(hidden_BTH) if self.pooler is not None else None
    output = BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=hidden_BTH, pooler_output=pooled_BH, hidden_states=tuple(states) if all_layers else None
    )
    return output if return_dict in (None, True) else output.to_tuple()


class _Inputs(NamedTuple):
    """What the embeddings are made from: ids (B, T) or embeddings (B, T, H), the rest None for the model's own."""

    input_ids: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None


def kernels_for(encoder: Any, dtype: torch.dtype) -> loading.Kernels | None:
    """The kernels that an accelerated encoder uses for matrices of this type; None: PyTorch's operations."""
    if dtype not in (torch.bfloat16, torch.float32) or encoder.config.hidden_size > constant("MAX_COLUMNS"):
        return None
    return loading.load(dtype)


def _hidden(
    encoder: Any,
    layers: list[Any],
    inputs: _Inputs,
    mask_BT: Tensor,
    dropout: float,
    dtype: torch.dtype,
    all_layers: bool,
) -> list[Tensor]:
    """Run the layers over all rows, including padding, by PyTorch's operations.

    Returns hidden_BTH of the last layer, or with `all_layers` of the embeddings and of every layer.
    """
    config = encoder.config
    hidden_BTH = encoder.embeddings(**inputs._asdict())
    num_documents, num_tokens, hidden_size = hidden_BTH.shape
    with torch.autocast("cpu", enabled=False):
        keys = KeyMask(mask_BT, dtype)
        masks = DropoutMasks() if dropout > 0 else None
        shape = layer.Shape(num_documents, num_tokens, config.num_attention_heads, config.layer_norm_eps, dropout)
        hidden_NH = hidden_BTH.reshape(-1, hidden_size).to(dtype)
        states_NH = [hidden_NH]
        for number, module in enumerate(layers):
            parameters = _parameters(module)
            weights = _weights(encoder, number, dtype, partial(layer.compute_weights, parameters, dtype))
            hidden_NH = layer.LayerFunction.apply(hidden_NH, shape, keys, masks, weights, *parameters)
            states_NH = [*states_NH, hidden_NH] if all_layers else [hidden_NH]
    return [state_NH.view(num_documents, num_tokens, hidden_size) for state_NH in states_NH]


def _compiled_hidden(
    encoder: Any,
    layers: list[Any],
    inputs: _Inputs,
    mask_BT: Tensor,
    dropout: float,
    loaded: loading.Kernels,
    all_layers: bool,
) -> list[Tensor]:
    """Run the layers over the rows of the real tokens, by the compiled kernels. Padding's hidden states are zero.

    Returns hidden_BTH of the last layer, or with `all_layers` of the embeddings and of every layer.
    """
    config = encoder.config
    offsets = offsets_of(mask_BT)
    places_N = places_of(mask_BT)
    plan = compiled.Plan(
        loaded,
        offsets,
        len(places_N),
        config.num_attention_heads,
        config.layer_norm_eps,
        compiled.Dropout.draw(dropout),
    )
    with torch.autocast("cpu", enabled=False):
        hidden_NH, residual_NH = _compiled_embeddings(encoder, inputs, mask_BT, places_N, plan)
        states_NH = [hidden_NH]
        for number, module in enumerate(layers):
            parameters = _parameters(module)
            weights = _weights(encoder, number, loaded.dtype, partial(compiled.compute_weights, loaded, parameters))
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_NH, *parameters)):
                hidden_NH, residual_NH = compiled.CompiledLayer.apply(
                    hidden_NH, residual_NH, plan, number, weights, *parameters
                )
            else:  # scoring, or the frozen layers below the first that learns
                hidden_NH = residual_NH = compiled.score_layer(hidden_NH, plan, number, weights)
            states_NH = [*states_NH, hidden_NH] if all_layers else [hidden_NH]
        return [_with_padding(state_NH[: plan.num_rows], mask_BT, places_N) for state_NH in states_NH]


def _with_padding(hidden_NH: Tensor, mask_BT: Tensor, places_N: Tensor) -> Tensor:
    """Put the rows of the real tokens at their places, zeros at padding; hidden_BTH."""
    if len(hidden_NH) < mask_BT.numel():
        zeros_NH = hidden_NH.new_zeros((mask_BT.numel(), hidden_NH.shape[1]))
        hidden_NH = zeros_NH.index_copy(0, places_N, hidden_NH)
    return hidden_NH.view(*mask_BT.shape, hidden_NH.shape[1])


def _compiled_embeddings(
    encoder: Any, inputs: _Inputs, mask_BT: Tensor, places_N: Tensor, plan: compiled.Plan
) -> tuple[Tensor, Tensor]:
    """The rows that enter the first layer, twice (see compiled.py)."""
    embeddings, ids_BT = encoder.embeddings, inputs.input_ids
    if ids_BT is None or type(embeddings) not in (BertEmbeddings, RobertaEmbeddings):
        rows_NH = embeddings(**inputs._asdict()).flatten(0, 1)[places_N].to(plan.kernels.dtype)
        rows_NH = F.pad(rows_NH, (0, 0, 0, rows_for(plan.num_rows, plan.kernels.dtype) - plan.num_rows))
        return rows_NH, rows_NH
    positions_BT = inputs.position_ids
    if positions_BT is None:
        if isinstance(embeddings, RobertaEmbeddings):
            positions_BT = embeddings.create_position_ids_from_input_ids(ids_BT, embeddings.padding_idx)
        else:
            positions_BT = torch.arange(ids_BT.shape[1])
    types_BT = torch.zeros((), dtype=torch.int64) if inputs.token_type_ids is None else inputs.token_type_ids
    tables = (embeddings.word_embeddings, embeddings.token_type_embeddings, embeddings.position_embeddings)
    return compiled.CompiledEmbeddings.apply(
        plan,
        2 * len(encoder.encoder.layer),  # the number of its mask: after the layers'
        tuple(index.expand(mask_BT.shape).flatten()[places_N] for index in (ids_BT, types_BT, positions_BT)),
        tuple(-1 if table.padding_idx is None else table.padding_idx for table in tables),
        embeddings.LayerNorm.weight,
        embeddings.LayerNorm.bias,
        *(table.weight for table in tables),
    )


def _weights(
    encoder: nn.Module, number: int, dtype: torch.dtype, compute: Callable[[], layer.Weights]
) -> layer.Weights:
    kept = None if torch.is_grad_enabled() else _kept.get()
    if kept is None:
        return compute()
    key = (encoder, number, dtype)
    if key not in kept:
        kept[key] = compute()
    return kept[key]


def _parameters(layer: Any) -> tuple[Tensor, ...]:
    attention, output = layer.attention.self, layer.attention.output
    modules = (
        attention.query,
        attention.key,
        attention.value,
        output.dense,
        output.LayerNorm,
        layer.intermediate.dense,
        layer.output.dense,
        layer.output.LayerNorm,
    )
    return tuple(tensor for module in modules for tensor in (module.weight, module.bias))
