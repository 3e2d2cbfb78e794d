"""A faster, exact training step and scoring pass for BERT and RoBERTa encoders on the CPU.

B: documents, T: tokens (padded), H: hidden size, N: rows, a token each.

`accelerate(encoder)` keeps the Hugging Face model, its parameters and its state dict, and replaces its `forward`.
Each layer becomes one autograd function with a hand-written backward pass. In bfloat16, where the compiled kernels
can be had, rows are the real tokens alone (`compiled.py`); else they are all B * T tokens (`layer.py`). In fp32 the
outputs are the Hugging Face model's; gradients equal its to rounding. Whatever the fast path does not know (attention
dropout, a request for hidden states, 4-D masks, ...) goes to the original `forward`.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from imdbcls.fast import compiled, kernels, layer
from imdbcls.fast.attention import KeyMask
from imdbcls.fast.dropout import DropoutMasks

_MODEL_TYPES = {"bert", "roberta"}


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
    **kwargs: Any,
) -> Any:
    """The encoder's forward pass: hidden states_BTH in fp32 outside autocast and its dtype within."""
    config = self.config
    embedded = input_ids if input_ids is not None else inputs_embeds
    return_dict = kwargs.pop("return_dict", None)
    wants_extras = any(value is not None and value is not False for value in kwargs.values())
    simple = (
        embedded is not None
        and embedded.device.type == "cpu"
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
        return type(self).forward(
            self, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs
        )

    autocast = torch.is_autocast_enabled("cpu")
    hidden_BTH = self.embeddings(
        input_ids=input_ids,
        token_type_ids=token_type_ids,
        position_ids=position_ids,
        inputs_embeds=inputs_embeds,
    )
    dtype = torch.get_autocast_dtype("cpu") if autocast else hidden_BTH.dtype
    mask_BT = torch.ones(hidden_BTH.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    dropout = config.hidden_dropout_prob if self.training else 0.0
    with torch.autocast("cpu", enabled=False):
        compute = _compiled_layers if _takes_kernels(config, dtype) else _layers
        hidden_BTH = compute(self, hidden_BTH, mask_BT, dropout, dtype)
    pooled_BH = self.pooler(hidden_BTH) if self.pooler is not None else None
    output = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden_BTH, pooler_output=pooled_BH)
    return output if return_dict in (None, True) else output.to_tuple()


def _takes_kernels(config: Any, dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and config.hidden_size <= compiled.MOST_COLUMNS and kernels.load() is not None


def _layers(encoder: Any, hidden_BTH: Tensor, mask_BT: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """All layers over all rows, padding among them, by PyTorch's operations."""
    config = encoder.config
    num_documents, num_tokens, hidden_size = hidden_BTH.shape
    keys = KeyMask(mask_BT, dtype)
    masks = DropoutMasks() if dropout > 0 else None
    shape = layer.Shape(num_documents, num_tokens, config.num_attention_heads, config.layer_norm_eps, dropout)
    hidden_NH = hidden_BTH.reshape(-1, hidden_size).to(dtype)
    for module in encoder.encoder.layer:
        parameters = _parameters(module)
        weights = layer.compute_weights(parameters, dtype)
        hidden_NH = layer.LayerFunction.apply(hidden_NH, shape, keys, masks, weights, *parameters)
    return hidden_NH.view(num_documents, num_tokens, hidden_size)


def _compiled_layers(encoder: Any, hidden_BTH: Tensor, mask_BT: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """All layers over the real tokens' rows, by the compiled kernels. Padding's hidden states are zero."""
    config = encoder.config
    loaded = kernels.load()
    assert loaded is not None
    lengths_B = mask_BT.sum(1)
    offsets = torch.zeros(len(lengths_B) + 1, dtype=torch.int64)
    torch.cumsum(lengths_B, 0, out=offsets[1:])
    real_N = mask_BT.flatten().nonzero().squeeze(1)
    plan = compiled.Plan(
        loaded, offsets, config.num_attention_heads, config.layer_norm_eps, compiled.Dropout.draw(dropout)
    )
    all_rows = hidden_BTH.flatten(0, 1)
    has_padding = len(real_N) < len(all_rows)
    hidden_NH = (all_rows.index_select(0, real_N) if has_padding else all_rows).to(dtype)
    residual_NH = hidden_NH
    for number, module in enumerate(encoder.encoder.layer):
        parameters = _parameters(module)
        weights = compiled.compute_weights(parameters)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_NH, *parameters)):
            hidden_NH, residual_NH = compiled.CompiledLayer.apply(
                hidden_NH, residual_NH, plan, number, weights, *parameters
            )
        else:  # scoring, or the frozen layers below the first that learns
            hidden_NH = residual_NH = compiled.score_layer(hidden_NH, plan, number, weights)
    if has_padding:
        hidden_NH = hidden_NH.new_zeros(all_rows.shape).index_copy(0, real_N, hidden_NH)
    return hidden_NH.view(hidden_BTH.shape)


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
