"""Run BERT and RoBERTa on the CPU faster than transformers does. Without dropout, the values are equal up to rounding.

`accelerate` replaces the `forward` method of a Hugging Face model. Its parameters and state dict do not change. Each
layer becomes one autograd function with a hand-written backward pass. If there are compiled kernels for the processor
and the dtype, the layers process only the non-padding tokens (`compiled.py`). Otherwise they process all B * T rows
(`layer.py`). The model's own `forward` still runs if, for example, a pass needs attention dropout or a 4-D mask.
`head_input` selects the layers and vectors to return. If a head reads only first tokens, most of the last layer is
skipped (`first_token.py`).

Shape suffixes: B documents, T tokens (padded), H hidden size, N rows, one per token.
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
from imdbcls.kernels.head_input import HeadInput
from imdbcls.kernels.products import padded_rows
from imdbcls.runtime.padding import cu_seqlens_of, token_indices, with_padding

_MODEL_TYPES = {"bert", "roberta"}

# The prepared weights in a block of `inference_weights`, by encoder, layer and dtype. Each thread has its own mapping.
_prepared: ContextVar[dict[tuple[nn.Module, int, torch.dtype], layer.Weights] | None] = ContextVar(
    "prepared", default=None
)


@contextmanager
def inference_weights() -> Iterator[None]:
    """Prepare the weights of accelerated encoders only once for all passes in this block.

    This saves more than a third of the time for a single document. No weight may change inside the block. Passes that
    compute gradients still prepare their own weights. A nested block uses the weights of the outer block.
    """
    outer = _prepared.get()
    try:
        _prepared.set({} if outer is None else outer)
        yield
    finally:
        _prepared.set(outer)


def accelerate(encoder: PreTrainedModel) -> str | None:
    """Replace `encoder.forward` with the `forward` of this module, if the encoder is supported.

    The parameters do not change. Return the reason why training on the CPU does not use the accelerated layers, or
    None if training uses them. Log messages show the reason.
    """
    reason = _fallback_reason(encoder)
    if reason is None:
        encoder.forward = MethodType(_forward, encoder)
        if encoder.config.attention_probs_dropout_prob > 0:
            return "attention dropout is above 0, so only evaluation uses the fast layers"
    return reason


def is_accelerated(encoder: nn.Module) -> bool:
    """Return whether the encoder's `forward` is from this module, so that it accepts `head_input`."""
    return getattr(encoder.forward, "__func__", None) is _forward


def runs_accelerated_layers(encoder: nn.Module, training: bool) -> bool:
    """Return whether the encoder uses the accelerated layers, in training or in evaluation."""
    return is_accelerated(encoder) and _allows_accelerated_layers(encoder, training)


def _allows_accelerated_layers(encoder: Any, training: bool) -> bool:
    drops_attention = training and encoder.config.attention_probs_dropout_prob > 0
    return not drops_attention and not _recomputes_activations(encoder)


def kernels_for(encoder: Any, dtype: torch.dtype) -> loading.Kernels | None:
    """Return the compiled kernels that an accelerated encoder uses in this dtype, or None to use PyTorch."""
    if dtype not in (torch.bfloat16, torch.float32) or encoder.config.hidden_size > constant("MAX_COLUMNS"):
        return None
    return loading.load(dtype)


def _fallback_reason(encoder: PreTrainedModel) -> str | None:
    config = encoder.config
    if config.model_type not in _MODEL_TYPES or not hasattr(encoder, "encoder"):
        return f"{config.model_type} has no fast layers"
    if config.is_decoder or config.add_cross_attention:
        return "decoders have no fast layers"
    if config.hidden_act != "gelu":
        return f"the fast layers do not support the activation {config.hidden_act}"
    if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return f"PyTorch {torch.__version__} has no fused CPU attention"
    return None


def _recomputes_activations(encoder: Any) -> bool:
    return any(getattr(each, "gradient_checkpointing", False) for each in (encoder.encoder, *encoder.encoder.layer))


class _Inputs(NamedTuple):
    """The arguments of `forward` that describe the tokens.

    Either `input_ids` (B, T) or `inputs_embeds` (B, T, H) is given. If `token_type_ids` or `position_ids` is None, the
    encoder uses its default.
    """

    input_ids: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None

    @property
    def tokens(self) -> Tensor | None:
        """Whichever of `input_ids` and `inputs_embeds` was given."""
        return self.inputs_embeds if self.input_ids is None else self.input_ids


def _forward(
    self: Any,  # the Hugging Face model; `accelerate` sets this method
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    head_input: HeadInput | None = None,
    output_hidden_states: bool | None = None,
    return_dict: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Return the encoder's output, with hidden_BTH in the autocast dtype, or in float32 without autocast.

    `head_input` selects the layers and vectors to return. The default is all tokens of the last layer or, with
    `output_hidden_states`, all tokens of all layers. `head_input` has no effect if the encoder's original `forward`
    runs. The other arguments are the arguments of the original `forward`.
    """
    inputs = _Inputs(input_ids, token_type_ids, position_ids, inputs_embeds)
    if not _is_supported(self, inputs, attention_mask, kwargs):
        given = {"output_hidden_states": output_hidden_states, "return_dict": return_dict}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        return type(self).forward(
            self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs
        )
    if head_input is None:
        head_input = HeadInput("all" if output_hidden_states else "last")
    states = _hidden_states(self, inputs, attention_mask, head_input)
    pooled_BH = self.pooler(states[-1]) if self.pooler is not None else None
    output = BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=states[-1],
        pooler_output=pooled_BH,
        hidden_states=tuple(states) if output_hidden_states else None,
    )
    return output if return_dict in (None, True) else output.to_tuple()


def _is_supported(encoder: Any, inputs: _Inputs, attention_mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Return whether the accelerated layers support this pass; `options` are the remaining arguments of `forward`."""
    config, tokens = encoder.config, inputs.tokens
    return (
        tokens is not None
        and tokens.device.type == "cpu"
        and encoder.dtype == torch.float32
        and all(value is None or value is False for value in options.values())
        and (attention_mask is None or attention_mask.dim() == 2)
        and not config.output_attentions
        and not config.output_hidden_states
        and _allows_accelerated_layers(encoder, encoder.training)
    )


def _hidden_states(encoder: Any, inputs: _Inputs, attention_mask: Tensor | None, head_input: HeadInput) -> list[Tensor]:
    """Return the hidden states that the head reads, from the lowest to the last layer.

    If the head reads first tokens, the last layer computes only the first token, unless the layer has adapters. With
    adapters, the last layer's vectors of all tokens are returned if the head reads only this layer.
    """
    assert inputs.tokens is not None  # checked by `_is_supported`
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else encoder.dtype
    shape = inputs.tokens.shape[:2]
    mask_BT = torch.ones(shape, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    dropout = encoder.config.hidden_dropout_prob if encoder.training else 0.0
    kernels = kernels_for(encoder, dtype)
    if kernels is not None:
        return _run_compiled_layers(encoder, inputs, mask_BT, dropout, kernels, head_input)
    return _run_pytorch_layers(encoder, inputs, mask_BT, dropout, dtype, head_input)


def _run_pytorch_layers(
    encoder: Any, inputs: _Inputs, mask_BT: Tensor, dropout: float, dtype: torch.dtype, head_input: HeadInput
) -> list[Tensor]:
    """Compute `_hidden_states` with PyTorch's operations (`layer.py`), for all B * T rows including padding."""
    config = encoder.config
    layers, last = first_token.split_layers(encoder.encoder.layer, head_input.tokens == "first")
    first_state = head_input.first_state(config.num_hidden_layers)
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
            states_NH = [*states_NH, hidden_NH] if number >= first_state else [hidden_NH]
        states_BTH = [state_NH.view(num_documents, num_tokens, hidden_size) for state_NH in states_NH]
        if last is None:
            return [head_input.vectors(state_BTH, mask_BT) for state_BTH in states_BTH]
        lower_BTH = states_BTH if len(layers) >= first_state else []
        first_B1H = first_token.first_token_of(last, states_BTH[-1], mask_BT)
        return [*(head_input.vectors(state_BTH, mask_BT) for state_BTH in lower_BTH), first_B1H]


def _run_compiled_layers(
    encoder: Any,
    inputs: _Inputs,
    mask_BT: Tensor,
    dropout: float,
    kernels: loading.Kernels,
    head_input: HeadInput,
) -> list[Tensor]:
    """Compute `_hidden_states` with the compiled kernels, for the N non-padding tokens. Padding gets zeros."""
    config = encoder.config
    layers, last = first_token.split_layers(encoder.encoder.layer, head_input.tokens == "first")
    first_state = head_input.first_state(config.num_hidden_layers)
    offsets, indices_N = cu_seqlens_of(mask_BT), token_indices(mask_BT)
    masks = compiled.Dropout.draw(dropout)
    batch = compiled.PackedBatch(
        kernels, offsets, len(indices_N), config.num_attention_heads, config.layer_norm_eps, masks
    )
    with torch.autocast("cpu", enabled=False):
        hidden_NH, residual_NH = _compiled_embeddings(encoder, inputs, mask_BT, indices_N, batch)
        states_NH = [hidden_NH]
        for number, module in enumerate(layers):
            parameters = _parameters(module)
            weights = _weights(encoder, number, kernels.dtype, partial(compiled.compute_weights, kernels, parameters))
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_NH, *parameters)):
                hidden_NH, residual_NH = compiled.CompiledLayer.apply(
                    hidden_NH, residual_NH, batch, number, weights, *parameters
                )
            else:  # in evaluation, and in frozen layers below the lowest trainable layer
                hidden_NH = residual_NH = compiled.inference_layer(hidden_NH, batch, number, weights)
            states_NH = [*states_NH, hidden_NH] if number >= first_state else [hidden_NH]
        states_NH = [state_NH[: batch.num_rows] for state_NH in states_NH]

        def padded(state_NH: Tensor) -> Tensor:
            if batch.num_rows == mask_BT.numel():  # without padding, a view is enough
                return state_NH.view(*mask_BT.shape, -1)
            return with_padding(state_NH, mask_BT, indices_N)

        def vectors(state_NH: Tensor) -> Tensor:
            return head_input.packed_vectors(state_NH, offsets) if head_input.pools else padded(state_NH)

        if last is None:
            return [vectors(state_NH) for state_NH in states_NH]
        lower_NH = states_NH if len(layers) >= first_state else []
        first_B1H = first_token.first_token_of(last, padded(states_NH[-1]), mask_BT)
        return [*(vectors(state_NH) for state_NH in lower_NH), first_B1H]


def _compiled_embeddings(
    encoder: Any, inputs: _Inputs, mask_BT: Tensor, indices_N: Tensor, batch: compiled.PackedBatch
) -> tuple[Tensor, Tensor]:
    """Return the input rows of the first layer, twice (see compiled.py)."""
    embeddings, ids_BT = encoder.embeddings, inputs.input_ids
    if ids_BT is None or type(embeddings) not in (BertEmbeddings, RobertaEmbeddings):
        rows_NH = embeddings(**inputs._asdict()).flatten(0, 1)[indices_N].to(batch.kernels.dtype)
        rows_NH = F.pad(rows_NH, (0, 0, 0, padded_rows(batch.num_rows, batch.kernels.dtype) - batch.num_rows))
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
        batch,
        2 * len(encoder.encoder.layer),  # the number of the dropout mask; the layers use the smaller numbers
        tuple(index.expand(mask_BT.shape).flatten()[indices_N] for index in (ids_BT, types_BT, positions_BT)),
        tuple(-1 if table.padding_idx is None else table.padding_idx for table in tables),
        embeddings.LayerNorm.weight,
        embeddings.LayerNorm.bias,
        *(table.weight for table in tables),
    )


def _weights(
    encoder: nn.Module, number: int, dtype: torch.dtype, compute: Callable[[], layer.Weights]
) -> layer.Weights:
    """Return the prepared weights of a layer; within `inference_weights`, reuse them if no gradient is needed."""
    prepared = None if torch.is_grad_enabled() else _prepared.get()
    if prepared is None:
        return compute()
    key = (encoder, number, dtype)
    if key not in prepared:
        prepared[key] = compute()
    return prepared[key]


def _parameters(layer: Any) -> tuple[Tensor, ...]:
    """Return the sixteen parameters of a layer, in the order that both `compute_weights` functions expect."""
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
