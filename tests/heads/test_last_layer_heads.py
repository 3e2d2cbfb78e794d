"""Heads that read the last layer: cases computed by hand, and equivalence with reference implementations."""

from collections.abc import Sequence
from math import erf, exp, sqrt, tanh

import pytest
import torch
import torch.nn.functional as F
from support.heads import CLASSES, HIDDEN, LENGTHS, by_hand, make_batch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from imdbcls.heads.bilstm import BiLSTMHead
from imdbcls.heads.cls_mean import ClsMeanHead
from imdbcls.heads.cnn import CNNHead
from imdbcls.heads.gru import GRUHead
from imdbcls.heads.last import LastHead
from imdbcls.heads.linear import LinearHead
from imdbcls.heads.mean_max import MeanMaxHead
from imdbcls.heads.modernbert import ModernBertHead
from imdbcls.heads.self_attentive import SelfAttentiveHead

# The document of `by_hand` has the tokens (1, 0), (0, 2) and (4, -1). Its mean is (5/3, 1/3), its maximum (4, 2).
TOKENS = (0.5, -1.0, 2.0)  # for heads of one dimension


def sigmoid(number: float) -> float:
    return 1 / (1 + exp(-number))


def by_hand_1d(head: nn.Module) -> float:
    """Return the logit for `TOKENS` and one padding token, after setting `output` to sum the pooled vector."""
    nn.init.ones_(head.output.weight)
    nn.init.zeros_(head.output.bias)
    with torch.no_grad():
        hidden_BTD = torch.tensor([*TOKENS, 77.0]).reshape(1, 4, 1)
        return head.eval()(hidden_BTD, torch.tensor([[True, True, True, False]])).item()


def test_linear_by_hand() -> None:
    assert by_hand(LinearHead(hidden_size=2, num_labels=1, dropout=0.5)) == pytest.approx(1 + 0)


def test_last_by_hand() -> None:
    assert by_hand(LastHead(hidden_size=2, num_labels=1, dropout=0.5)) == pytest.approx(4 - 1)


def test_mean_max_by_hand() -> None:
    assert by_hand(MeanMaxHead(hidden_size=2, num_labels=1, dropout=0.5)) == pytest.approx(5 / 3 + 1 / 3 + 4 + 2)


def test_cls_mean_by_hand() -> None:
    assert by_hand(ClsMeanHead(hidden_size=2, num_labels=1, dropout=0.5)) == pytest.approx(1 + 0 + 5 / 3 + 1 / 3)


def test_modernbert_by_hand() -> None:
    head = ModernBertHead(hidden_size=2, num_labels=1, dropout=0.5)
    head.dense.weight.data = torch.tensor([[3.0, 0.0], [0.0, -3.0]])
    head.norm.weight.data = torch.tensor([2.0, 0.5])
    first, second = (x * (1 + erf(x / sqrt(2))) / 2 for x in (5.0, -1.0))  # GELU of 3 * 5/3 and -3 * 1/3
    half = (first - second) / 2  # the distance of both numbers from their mean; the variance is half ** 2
    normed = half / sqrt(half**2 + 1e-5)
    assert by_hand(head) == pytest.approx(2 * normed - 0.5 * normed)


def test_gru_by_hand() -> None:
    """Every gate reads the input with weight 1. Only the candidate state reads the previous state, with weight 1."""
    head = GRUHead(hidden_size=1, num_labels=1, dropout=0.5)
    for name, parameter in head.gru.named_parameters():
        nn.init.constant_(parameter, float(name.startswith("weight_ih")))
    head.gru.weight_hh_l0.data[2] = 1.0  # PyTorch's order is reset, update, candidate
    state = 0.0
    for token in TOKENS:
        reset = update = sigmoid(token)
        state = update * state + (1 - update) * tanh(token + reset * state)
    assert by_hand_1d(head) == pytest.approx(state, abs=1e-6)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_bilstm_by_hand(pooling: str) -> None:
    """Every gate reads the input with weight 1, and no gate reads the previous output."""
    head = BiLSTMHead(hidden_size=1, num_labels=1, dropout=0.5, pooling=pooling)  # type: ignore[arg-type]
    for lstm in (head.forward_lstm, head.backward_lstm):
        for name, parameter in lstm.named_parameters():
            nn.init.constant_(parameter, float(name.startswith("weight_ih")))

    def outputs(tokens: Sequence[float]) -> list[float]:
        cell, found = 0.0, []
        for token in tokens:
            cell = sigmoid(token) * cell + sigmoid(token) * tanh(token)
            found.append(sigmoid(token) * tanh(cell))
        return found

    both = outputs(TOKENS), outputs(TOKENS[::-1])
    expected = sum(max(each) if pooling == "max" else sum(each) / 3 for each in both)
    assert by_hand_1d(head) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("width", "bias", "expected"),
    [
        (1, 0.0, 3.0),  # the tokens sum to 1, 2 and 3
        (2, 0.5, 5.5),  # windows of two tokens sum to 3 and 5
        (3, -1.0, 5.0),
        (4, 0.0, 6.0),  # the document is shorter than the window, so zeros fill the window
        (2, -9.0, 0.0),  # ReLU
    ],
)
def test_cnn_by_hand(width: int, bias: float, expected: float) -> None:
    head = CNNHead(hidden_size=2, num_labels=1, widths=[width], num_filters=1, dropout=0.5)
    nn.init.ones_(head.convolutions[0].weight)
    nn.init.constant_(head.convolutions[0].bias, bias)
    assert by_hand(head) == pytest.approx(expected)


def test_self_attentive_by_hand() -> None:
    head = SelfAttentiveHead(hidden_size=2, num_labels=1, attention_size=2, num_hops=2, dropout=0.5)
    head.projection.weight.data = torch.eye(2)
    head.hops.weight.data = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    scores = (
        [2 * tanh(1), -tanh(2), 2 * tanh(4) + tanh(1)],
        [0.0, 3 * tanh(2), -3 * tanh(1)],
    )
    weights = [torch.tensor(each).softmax(0).tolist() for each in scores]
    assert by_hand(head) == pytest.approx(sum(first * 1 + second * 2 + third * 3 for first, second, third in weights))


# Equivalence with reference implementations.


def test_modernbert_equals_transformers() -> None:
    """Both heads have the same weights and read the output of the library's encoder."""
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        classifier_pooling="mean", num_labels=CLASSES, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    library = ModernBertForSequenceClassification(config).eval()
    nn.init.normal_(library.head.norm.weight)
    nn.init.normal_(library.classifier.bias)
    head = ModernBertHead(hidden_size=32, num_labels=CLASSES, dropout=0.1).eval()
    parts = {"dense": library.head.dense, "norm": library.head.norm, "output": library.classifier}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    head.load_state_dict(weights)
    mask_BT = torch.arange(9) < torch.tensor([[9], [1], [4]])
    ids_BT = torch.randint(1, 50, (3, 9)) * mask_BT
    with torch.no_grad():
        expected_BC = library(input_ids=ids_BT, attention_mask=mask_BT.long()).logits
        hidden_BTD = library.model(input_ids=ids_BT, attention_mask=mask_BT.long()).last_hidden_state
        torch.testing.assert_close(head(hidden_BTD, mask_BT), expected_BC, rtol=0, atol=1e-6)


def packed(layer: nn.RNNBase, hidden_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs and the final states of a recurrent layer that never sees padding."""
    documents = pack_padded_sequence(hidden_BTD, mask_BT.sum(1), batch_first=True, enforce_sorted=False)
    outputs, state = layer(documents)
    return pad_packed_sequence(outputs, batch_first=True)[0], state


def test_gru_equals_packed_sequences() -> None:
    head = GRUHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.1).eval()
    hidden_BTD, mask_BT = make_batch()
    _, final_1BD = packed(head.gru, hidden_BTD, mask_BT)
    torch.testing.assert_close(head(hidden_BTD, mask_BT), head.output(final_1BD[0]), rtol=0, atol=1e-5)


def test_bilstm_equals_a_bidirectional_layer_on_packed_sequences() -> None:
    head = BiLSTMHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.1, pooling="max").eval()
    both = nn.LSTM(HIDDEN, HIDDEN, batch_first=True, bidirectional=True)
    weights = dict(head.forward_lstm.named_parameters())
    both.load_state_dict(weights | {f"{name}_reverse": each for name, each in head.backward_lstm.named_parameters()})
    hidden_BTD, mask_BT = make_batch()
    outputs_BTD, _ = packed(both, hidden_BTD, mask_BT)
    pooled = [outputs_BTD[row, :length].amax(dim=0) for row, length in enumerate(LENGTHS)]
    torch.testing.assert_close(head(hidden_BTD, mask_BT), head.output(torch.stack(pooled)), rtol=0, atol=1e-5)


def test_cnn_equals_convolutions_of_single_documents() -> None:
    """Each document is convolved without padding; only a document shorter than a window is filled with zeros."""
    head = CNNHead(hidden_size=HIDDEN, num_labels=CLASSES, widths=[2, 5], num_filters=7, dropout=0.5).eval()
    hidden_BTD, mask_BT = make_batch()
    pooled = []
    for row, length in enumerate(LENGTHS):
        document_DT = F.pad(hidden_BTD[row, :length].T, (0, max(0, 5 - length)))
        shortest = F.pad(hidden_BTD[row, :length].T, (0, max(0, 2 - length)))
        parts = [head.convolutions[0](shortest[None]), head.convolutions[1](document_DT[None])]
        pooled.append(torch.cat([part[0].relu().amax(dim=1) for part in parts]))
    torch.testing.assert_close(head(hidden_BTD, mask_BT), head.output(torch.stack(pooled)), rtol=0, atol=1e-5)


def test_pooling_weights_of_self_attentive_are_the_mean_over_hops() -> None:
    head = SelfAttentiveHead(hidden_size=HIDDEN, num_labels=CLASSES, attention_size=16, num_hops=4, dropout=0.1).eval()
    hidden_BTD, mask_BT = make_batch()
    weights_BT = head.pooling_weights(hidden_BTD, mask_BT)
    torch.testing.assert_close(weights_BT.sum(dim=1), torch.ones(len(LENGTHS)))
    assert (weights_BT[~mask_BT] == 0).all()
    nn.init.zeros_(head.output.bias)
    nn.init.constant_(head.output.weight, 0.25)  # each logit then sums the elements of the hops' mean
    expected_B = torch.einsum("bt,btd->b", weights_BT, hidden_BTD)
    torch.testing.assert_close(head(hidden_BTD, mask_BT)[:, 0], expected_B, rtol=1e-4, atol=1e-4)
