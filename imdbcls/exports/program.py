"""A run's model as a function of token ids and attention mask, traced by `torch.export` for any batch and length.

`torch.export` unrolls `nn.LSTM` over the tokens of its example, so the program would accept only that length. The
copy for the export calls an operator with the same result, which the trace keeps: `lstm`.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from imdbcls.errors import UserError
from imdbcls.exports.source import ExportSource
from imdbcls.runtime import limits

INPUTS = ("input_ids", "attention_mask")
EXAMPLE = (3, 24)  # documents and tokens; neither is 0 or 1, which a trace would keep as constants
MAX_DOCUMENTS = 1 << 20


@torch.library.custom_op("imdbcls_exports::lstm", mutates_args=())
def lstm(input_BTD: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer of an LSTM in one direction; return the outputs and the final states."""
    return torch.ops.aten.lstm.input(input_BTD, state, weights, *LSTM_OPTIONS)


@lstm.register_fake
def _(input_BTD: Tensor, state: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    output_BTH = input_BTD.new_empty((input_BTD.shape[0], input_BTD.shape[1], state[0].shape[2]))
    return output_BTH, torch.empty_like(state[0]), torch.empty_like(state[1])


# has_biases, num_layers, dropout, train, bidirectional, batch_first
LSTM_OPTIONS = (True, 1, 0.0, False, False, True)


class TracedLSTM(nn.Module):
    """An `nn.LSTM` with one layer and one direction that calls `lstm`."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        self.weights = nn.ParameterList(layer.all_weights[0])

    def forward(self, input_BTD: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        zeros = input_BTD.new_zeros(1, input_BTD.shape[0], self.hidden_size)
        output_BTH, hidden, cell = lstm(input_BTD, [zeros, zeros], list(self.weights))
        return output_BTH, (hidden, cell)


class Program(nn.Module):
    """`input_ids` and `attention_mask` (int64, padded on the right) → float32 logits, divided by the temperature."""

    def __init__(self, source: ExportSource) -> None:
        super().__init__()
        model = copy.deepcopy(source.model)
        self.encoder, self.head = model.encoder, with_traced_lstms(model.head)
        self.reads_all_layers = model.reads_all_layers
        self.temperature = source.temperature

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        options: dict[str, Any] = {"output_hidden_states": True} if self.reads_all_layers else {}
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **options)
        hidden = torch.stack(output.hidden_states) if self.reads_all_layers else output.last_hidden_state
        return self.head(hidden, attention_mask.bool()).float() / self.temperature


def with_traced_lstms(head: nn.Module) -> nn.Module:
    """Replace every `nn.LSTM` in a head by a `TracedLSTM`. Raises UserError for an LSTM that it cannot express."""
    for parent in list(head.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.LSTM):
                continue
            if (layer.num_layers, layer.bidirectional, layer.batch_first, layer.bias, layer.proj_size) != (
                *(1, False, True, True, 0),
            ):
                raise UserError(
                    f"The LSTM {name} of {type(head).__name__} cannot be exported to this format: only LSTMs with one "
                    "layer, one direction, bias and batch_first=True can. Use --to huggingface."
                )
            setattr(parent, name, TracedLSTM(layer))
    return head


def trace(source: ExportSource) -> ExportedProgram:
    """Trace a run's model. Raises UserError if PyTorch cannot trace its encoder or head."""
    num_tokens = EXAMPLE[1]
    ids_BT = torch.full(EXAMPLE, int(source.tokenizer.pad_token_id))
    mask_BT = torch.ones(EXAMPLE, dtype=torch.int64)
    mask_BT[1, num_tokens // 2 :] = 0
    dynamic = {0: Dim.DYNAMIC(max=MAX_DOCUMENTS), 1: Dim.DYNAMIC(max=max(num_tokens, source.config.max_length))}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                Program(source).eval(), (ids_BT, mask_BT), dynamic_shapes=dict.fromkeys(INPUTS, dynamic)
            )
    except UserError:
        raise
    except Exception as error:  # torch.export raises many kinds of errors
        if (explained := limits.explain(error)) is not None:
            raise explained from error
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"torch.export cannot trace head={source.config.head.name} on backbone={source.config.backbone.name} "
            f"({type(error).__name__}: {reason}). Use --to huggingface."
        ) from error


def with_library_lstm(program: ExportedProgram) -> ExportedProgram:
    """Replace `lstm` in a traced program by PyTorch's own operator, so that the program runs without this package."""
    for module in program.graph_module.modules():  # the head's autocast block is a module of its own
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.target is torch.ops.imdbcls_exports.lstm.default:
                node.target, node.args = torch.ops.aten.lstm.input, (*node.args, *LSTM_OPTIONS)
        module.recompile()
    return program
