"""Trace the exported model with `torch.export`: a program for any batch size and any length up to `max_length`.

`torch.export` unrolls `nn.LSTM` and `nn.GRU` over the tokens of its example, so the program would accept only the
length of the example. The exported copy of a head therefore calls `lstm` and `gru`. These custom operators give the
same results, and `torch.export` does not unroll them.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from imdbcls.errors import UserError
from imdbcls.exports.source import ExportSource, Member
from imdbcls.kernels import HeadInput
from imdbcls.models.classifier import layers_read
from imdbcls.runtime import limits

INPUTS = ("input_ids", "attention_mask")
# The example has at most this many documents and tokens. torch.export would treat a size of 0 or 1 as a constant.
EXAMPLE_DOCUMENTS, EXAMPLE_TOKENS = 3, 24
MAX_DOCUMENTS = 1 << 20


@torch.library.custom_op("imdbcls_exports::lstm", mutates_args=())
def lstm(input_BTD: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer of an LSTM in one direction; return the outputs and the final states."""
    return torch.ops.aten.lstm.input(input_BTD, state, weights, *RECURRENT_OPTIONS)


@lstm.register_fake
def _(input_BTD: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    output_BTH = input_BTD.new_empty((input_BTD.shape[0], input_BTD.shape[1], state[0].shape[2]))
    return output_BTH, torch.empty_like(state[0]), torch.empty_like(state[1])


@torch.library.custom_op("imdbcls_exports::gru", mutates_args=())
def gru(input_BTD: Tensor, state: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Run one layer of a GRU in one direction; return the outputs and the final state."""
    return torch.ops.aten.gru.input(input_BTD, state, weights, *RECURRENT_OPTIONS)


@gru.register_fake
def _(input_BTD: Tensor, state: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    return input_BTD.new_empty((input_BTD.shape[0], input_BTD.shape[1], state.shape[2])), torch.empty_like(state)


# has_biases, num_layers, dropout, train, bidirectional, batch_first
RECURRENT_OPTIONS = (True, 1, 0.0, False, False, True)
# The operators of this module, and the PyTorch operators that replace them in a saved program.
LIBRARY_OPERATORS = {
    torch.ops.imdbcls_exports.lstm.default: torch.ops.aten.lstm.input,
    torch.ops.imdbcls_exports.gru.default: torch.ops.aten.gru.input,
}


class TracedRecurrent(nn.Module):
    """Replacement for an `nn.LSTM` or `nn.GRU` with one layer and one direction. It calls `lstm` or `gru`."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.is_lstm = isinstance(layer, nn.LSTM)
        self.hidden_size = layer.hidden_size
        self.weights = nn.ParameterList(layer.all_weights[0])

    def forward(self, input_BTD: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        zeros_1BH = input_BTD.new_zeros(1, input_BTD.shape[0], self.hidden_size)
        if self.is_lstm:
            output_BTH, hidden_1BH, cell_1BH = lstm(input_BTD, [zeros_1BH, zeros_1BH], list(self.weights))
            return output_BTH, (hidden_1BH, cell_1BH)
        return gru(input_BTD, zeros_1BH, list(self.weights))


class Program(nn.Module):
    """A run's model: `input_ids` and `attention_mask` (int64, padded on the right) → float32 logits / temperature."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        model = copy.deepcopy(member.model)
        self.encoder, self.head = model.encoder, with_traced_recurrence(model.head)
        self.layers = layers_read(model.head)
        self.temperature = member.run.temperature

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        options: dict[str, Any] = {} if self.layers == "last" else {"output_hidden_states": True}
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **options)
        if self.layers == "last":
            hidden = output.last_hidden_state
        else:
            hidden = HeadInput(self.layers).select(output.hidden_states, attention_mask)
        return self.head(hidden, attention_mask.bool()).float() / self.temperature


class MeanProgram(nn.Module):
    """Several runs' models: the inputs of `Program` → logarithms of the mean of the runs' probabilities."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(Program(member) for member in members)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return log_mean([member(input_ids, attention_mask) for member in self.members])


def log_mean(logits_BC: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the mean of the probabilities of several models, with shape (B, C)."""
    log_probabilities = torch.stack([logits.log_softmax(dim=1) for logits in logits_BC])
    return log_probabilities.logsumexp(dim=0) - math.log(len(logits_BC))


def with_traced_recurrence(head: nn.Module) -> nn.Module:
    """Replace every `nn.LSTM` and `nn.GRU` in a head. Raise UserError for a layer that cannot be replaced."""
    for parent in list(head.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.LSTM | nn.GRU):
                continue
            if (layer.num_layers, layer.bidirectional, layer.batch_first, layer.bias, layer.proj_size) != (
                *(1, False, True, True, 0),
            ):
                raise UserError(
                    f"The {type(layer).__name__} {name} of {type(head).__name__} cannot be exported to this format, "
                    "which allows only num_layers=1, bidirectional=False, bias=True, batch_first=True and proj_size=0. "
                    "Use --to huggingface."
                )
            setattr(parent, name, TracedRecurrent(layer))
    return head


def trace(source: ExportSource) -> ExportedProgram:
    """Trace the exported model. Raise UserError if PyTorch cannot trace an encoder or a head."""
    model = MeanProgram(source.members) if source.is_ensemble else Program(source.members[0])
    num_tokens = min(EXAMPLE_TOKENS, source.config.max_length)  # `weight_avg` has one weight per position
    ids_BT = torch.full((EXAMPLE_DOCUMENTS, num_tokens), int(source.tokenizer.pad_token_id))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, num_tokens // 2 :] = 0
    dynamic = {0: Dim.DYNAMIC(max=MAX_DOCUMENTS), 1: Dim.DYNAMIC(max=source.config.max_length)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model.eval(), (ids_BT, mask_BT), dynamic_shapes=dict.fromkeys(INPUTS, dynamic))
    except UserError:
        raise
    except Exception as error:  # torch.export may raise any exception
        if (explained := limits.explain(error)) is not None:
            raise explained from error
        raise UserError(
            f"torch.export cannot trace {source.description} ({one_sentence(error)}). Use --to huggingface."
        ) from error


def one_sentence(error: Exception) -> str:
    """Return the type of an error, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def with_library_operators(program: ExportedProgram) -> ExportedProgram:
    """Replace `lstm` and `gru` in a traced program with PyTorch's operators. The result runs without this package."""
    for module in program.graph_module.modules():  # the trace puts the head's autocast block into a submodule
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.target in LIBRARY_OPERATORS:
                node.target, node.args = LIBRARY_OPERATORS[node.target], (*node.args, *RECURRENT_OPTIONS)
        module.recompile()
    return program
