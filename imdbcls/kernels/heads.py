"""Accelerate heads. Parameters stay the same. Values and gradients stay the same up to rounding and dropout masks.

Shape suffixes: B documents, T tokens, D hidden size, A attention heads, E = D / A.
"""

from collections.abc import Iterator
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imdbcls.heads.bilstm import BiLSTMHead
from imdbcls.heads.gru import GRUHead
from imdbcls.heads.lstm import LSTMHead
from imdbcls.heads.max_seq import MaxSeqHead
from imdbcls.heads.pooling import final_recurrent_output
from imdbcls.heads.transformer import TransformerHead
from imdbcls.kernels import recurrent
from imdbcls.kernels.dropout import DropoutMasks
from imdbcls.kernels.first_token import single_query_attention
from imdbcls.kernels.loading import Kernels


def accelerate_head(head: nn.Module) -> None:
    """Replace the slow parts of a head in place. Parameters, their names and the state dict do not change.

    - `nn.Dropout` in any head: on the CPU, masks for tensors with three or more dimensions (token vectors) take a tenth
      of PyTorch's time.
    - `LSTMHead`, `BiLSTMHead`, `GRUHead`: on the CPU, the recurrence uses the compiled kernels.
    - `TransformerHead`: its layer computes only the first token, because the head reads no other token.
    - `MaxSeqHead`: its attention does not compute keys and values, because there is only one query.

    A listed head is also accelerated if it is a submodule of another head. A subclass that overrides the accelerated
    method keeps its own version. `copy.deepcopy` keeps the acceleration.
    """
    for module in head.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.forward = MethodType(dropout, module)  # type: ignore[method-assign]
        elif isinstance(module, LSTMHead | GRUHead) and type(module).final_output is final_recurrent_output:
            module.final_output = final_output  # type: ignore[assignment]
        elif isinstance(module, BiLSTMHead) and type(module).pooled_output is BiLSTMHead.pooled_output:
            module.pooled_output = MethodType(pooled_output, module)  # type: ignore[method-assign]
        elif isinstance(module, TransformerHead) and type(module).forward is TransformerHead.forward:
            module.layer.forward = MethodType(first_token_of_layer, module.layer)  # type: ignore[method-assign]
        elif isinstance(module, MaxSeqHead) and type(module).forward is MaxSeqHead.forward:
            module.attention.forward = MethodType(attention_of_query, module.attention)  # type: ignore[method-assign]


def kernels_of_head(head: nn.Module, dtype: torch.dtype) -> Iterator[Kernels | None]:
    """Yield the kernels that each LSTM or GRU in the head uses on the CPU, or None for PyTorch's implementation."""
    accelerated: set[nn.Module] = set()
    for module in head.modules():
        if vars(module).keys() & {"final_output", "pooled_output"}:  # methods that `accelerate_head` replaced
            accelerated.update(module.children())
    for module in head.modules():
        if isinstance(module, nn.LSTM | nn.GRU):
            yield recurrent.kernels_of_width(module, dtype) if module in accelerated else None


def dropout(self: nn.Dropout, input: Tensor) -> Tensor:
    """Apply dropout. On the CPU, `DropoutMasks` draws the masks for token vectors."""
    if not self.training or self.p == 0 or input.dim() < 3 or input.device.type != "cpu":
        return nn.Dropout.forward(self, input)
    num_rows, width = input[..., 0].numel(), input.shape[-1]
    kept = DropoutMasks().draw(num_rows, width, self.p, input.dtype).view_as(input)
    return (input * kept).mul_(1 / (1 - self.p))


def final_output(layer: nn.LSTM | nn.GRU, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
    """Compute `final_recurrent_output` with the compiled kernels, if available. The result has the kernels' dtype."""
    kernels = recurrent.kernels_for(layer, hidden_BTD)
    if kernels is None:
        return final_recurrent_output(layer, hidden_BTD, mask_BT, backward=backward)
    return recurrent.final_output(kernels, layer, hidden_BTD, mask_BT, backward=backward)


def pooled_output(
    self: BiLSTMHead, layer: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False
) -> Tensor:
    """Compute `BiLSTMHead.pooled_output` with the compiled kernels, if available. Pool each document without padding.

    The result has the kernels' dtype.
    """
    kernels = recurrent.kernels_for(layer, hidden_BTD)
    if kernels is None:
        return BiLSTMHead.pooled_output(self, layer, hidden_BTD, mask_BT, backward=backward)
    output_NH = recurrent.token_outputs(kernels, layer, hidden_BTD, mask_BT, backward=backward)
    documents = output_NH.split(mask_BT.sum(dim=1).tolist())
    return torch.cat([self.pool(each.unsqueeze(0), mask_BT.new_ones(1, len(each))) for each in documents])


def first_token_of_layer(
    self: nn.TransformerEncoderLayer, hidden_BTD: Tensor, *, src_key_padding_mask: Tensor
) -> Tensor:
    """Compute the layer's output only at the first token; return first_B1D.

    Keys and values are not computed (see `single_query_attention`). `src_key_padding_mask` is True at padding.
    """
    first_BD = hidden_BTD[:, 0]
    attended_BD = attend(self.self_attn, first_BD, hidden_BTD, ~src_key_padding_mask)
    first_BD = self.norm1(first_BD + self.dropout1(attended_BD))
    updated_BD = self.linear2(self.dropout(F.gelu(self.linear1(first_BD))))
    first_BD = self.norm2(first_BD + self.dropout2(updated_BD))
    return first_BD.unsqueeze(1)


def attention_of_query(
    self: nn.MultiheadAttention,
    query_B1D: Tensor,
    key_BTD: Tensor,
    value_BTD: Tensor,
    *,
    key_padding_mask: Tensor,
    need_weights: bool,
) -> tuple[Tensor, None]:
    """Compute `nn.MultiheadAttention.forward` for one query per document. `value_BTD` must equal `key_BTD`."""
    return attend(self, query_B1D.squeeze(1), key_BTD, ~key_padding_mask).unsqueeze(1), None


def attend(attention: nn.MultiheadAttention, query_BD: Tensor, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the attention's output for one query per document, attended_BD (see `single_query_attention`)."""
    query_DD, key_DD, value_DD = attention.in_proj_weight.chunk(3)
    query_D, _, value_D = attention.in_proj_bias.chunk(3)
    query_BAE = F.linear(query_BD, query_DD, query_D).unflatten(1, (attention.num_heads, -1))
    dropout = attention.dropout if attention.training else 0.0
    return attention.out_proj(
        single_query_attention(query_BAE, hidden_BTD, mask_BT, key_DD, value_DD, value_D, dropout)
    )
