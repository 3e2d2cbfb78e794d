"""Tests for heads that read only the last layer, plain and accelerated: shapes, gradients, padding, cases by hand."""

from pathlib import Path

import pytest
import torch
from support.heads import ALL_MAKERS, CLASSES, HEADS, HIDDEN, LENGTHS, MAKERS, by_hand, check_bf16_autocast, make_batch
from torch import nn

import imdbcls.heads
from imdbcls.heads.attention import AttentionHead
from imdbcls.heads.cls import ClsHead
from imdbcls.heads.lstm import LSTMHead
from imdbcls.heads.max import MaxHead
from imdbcls.heads.mean import MeanHead
from imdbcls.heads.transformer import TransformerHead
from imdbcls.heads.weight_avg import WeightedAverageHead
from imdbcls.kernels.heads import accelerate_head


@pytest.fixture(params=[(name, fast) for fast in (False, True) for name in MAKERS], ids=str)
def head(request: pytest.FixtureRequest) -> nn.Module:
    name, fast = request.param
    torch.manual_seed(0)
    head = MAKERS[name](HIDDEN).eval()
    if fast:
        accelerate_head(head)
    return head


def test_every_module_is_tested() -> None:
    modules = {path.stem for path in Path(imdbcls.heads.__path__[0]).glob("*.py")} - {"__init__", "pooling"}
    targets = {type(maker(HIDDEN)).__module__.rpartition(".")[2] for maker in ALL_MAKERS.values()}
    assert len(HEADS) >= 8 and targets == modules


def test_shape_and_dtype(head: nn.Module) -> None:
    logits_BC = head(*make_batch())
    assert logits_BC.shape == (len(LENGTHS), CLASSES)
    assert logits_BC.dtype == torch.float32 and logits_BC.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_every_parameter_and_real_tokens_only(head: nn.Module, training: bool) -> None:
    head.train(training)
    hidden_BTD, mask_BT = make_batch()
    hidden_BTD.requires_grad_(True)
    weights_BC = torch.randn(len(LENGTHS), CLASSES, generator=torch.Generator().manual_seed(2))
    (head(hidden_BTD, mask_BT) * weights_BC).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    gradient_BTD = hidden_BTD.grad
    assert gradient_BTD is not None
    assert gradient_BTD[~mask_BT].abs().max() == 0
    assert (gradient_BTD.abs().amax(dim=(1, 2)) > 0).all(), "a document has no influence on its logits"


def test_logits_of_a_document_do_not_depend_on_its_batch(head: nn.Module) -> None:
    hidden_BTD, mask_BT = make_batch()
    together_BC = head(hidden_BTD, mask_BT)
    for row, length in enumerate(LENGTHS):
        alone_1C = head(hidden_BTD[row : row + 1, :length], mask_BT[row : row + 1, :length])
        assert alone_1C.shape == (1, CLASSES)
        torch.testing.assert_close(alone_1C[0], together_BC[row], rtol=0, atol=1e-5)
        pair = [row, (row + 1) % len(LENGTHS)]
        torch.testing.assert_close(head(hidden_BTD[pair], mask_BT[pair])[0], together_BC[row], rtol=0, atol=1e-5)
    other_padding_BC = head(*make_batch(padding=-7.0))
    torch.testing.assert_close(other_padding_BC, together_BC, rtol=0, atol=0)


def test_two_evaluations_are_identical(head: nn.Module) -> None:
    batch = make_batch()
    first_BC = head(*batch)
    head.train()
    head(*make_batch((3, 2)))  # other documents and training must leave no state
    head.eval()
    assert torch.equal(head(*batch), first_BC)


def test_bf16_autocast(head: nn.Module) -> None:
    check_bf16_autocast(head)


# Cases computed by hand.


def tanh(number: float) -> float:
    return torch.tensor(number).tanh().item()


def test_cls_by_hand() -> None:
    head = ClsHead(hidden_size=2, num_labels=1, dropout=0.5)
    nn.init.constant_(head.dense.weight, 0.5)
    nn.init.constant_(head.dense.bias, 0.25)
    assert by_hand(head) == pytest.approx(2 * tanh(0.75))  # twice tanh(0.5 · 1 + 0.5 · 0 + 0.25)


def test_mean_by_hand() -> None:
    assert by_hand(MeanHead(hidden_size=2, num_labels=1)) == pytest.approx(5 / 3 + 1 / 3)


def test_max_by_hand() -> None:
    assert by_hand(MaxHead(hidden_size=2, num_labels=1)) == pytest.approx(4 + 2)


def test_weight_avg_by_hand() -> None:
    head = WeightedAverageHead(hidden_size=2, num_labels=1, num_positions=5, dropout=0.5, normalize=True)
    assert by_hand(head) == pytest.approx(tanh(5 / 3) + tanh(1 / 3)), "training starts from the mean"
    head.position_weights.data = torch.tensor([0.0, 2.0, 3.0, 50.0, 50.0]).log()
    # Weights 0, 2/5 and 3/5; the 50 at the padding token is ignored.
    assert by_hand(head) == pytest.approx(tanh(12 / 5) + tanh(4 / 5 - 3 / 5))


def test_plain_weight_avg_by_hand() -> None:
    head = WeightedAverageHead(hidden_size=2, num_labels=1, num_positions=5, dropout=0.5, normalize=False)
    assert (head.position_weights.abs() <= 5**-0.5).all() and head.position_weights.std() > 0
    head.position_weights.data = torch.tensor([0.5, -1.0, 0.25, 50.0, 50.0])
    head.position_bias.data = torch.tensor([0.125])
    # 0.5 · (1, 0) - (0, 2) + 0.25 · (4, -1) + 0.125 = (1.625, -2.125)
    assert by_hand(head) == pytest.approx(tanh(1.625) + tanh(-2.125))


def test_attention_by_hand() -> None:
    head = AttentionHead(hidden_size=2, num_labels=1)
    head.projection.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head.projection.bias.data = torch.tensor([0.0, 1.0])
    head.context.weight.data = torch.tensor([[2.0, -1.0]])
    scores = [2 * tanh(1) - tanh(1), 2 * tanh(0) - tanh(3), 2 * tanh(4) - tanh(0)]
    weights = torch.tensor(scores).softmax(0).tolist()
    assert by_hand(head) == pytest.approx(weights[0] * 1 + weights[1] * 2 + weights[2] * 3)


def test_lstm_by_hand() -> None:
    """In one dimension, every gate reads the input with weight 1, and no gate reads the previous output."""
    head = LSTMHead(hidden_size=1, num_labels=1, dropout=0.5, bidirectional=False)
    for name, parameter in head.forward_lstm.named_parameters():
        nn.init.constant_(parameter, float(name.startswith("weight_ih")))
    nn.init.ones_(head.output.weight)
    nn.init.zeros_(head.output.bias)
    tokens = [0.5, -1.0, 2.0]
    cell = 0.0
    for token in tokens:
        gate = torch.tensor(token).sigmoid().item()
        cell = gate * cell + gate * tanh(token)
        output = gate * tanh(cell)
    hidden_BTD = torch.tensor([*tokens, 77.0]).reshape(1, 4, 1)
    logit = head.eval()(hidden_BTD, torch.tensor([[True, True, True, False]])).item()
    assert logit == pytest.approx(tanh(output), abs=1e-6)


def test_transformer_by_hand() -> None:
    """A single token attends to itself. Value and output projections are identities; the feed-forward part adds 0.5."""
    head = TransformerHead(hidden_size=2, num_labels=1, dropout=0.5)
    head.layer.self_attn.in_proj_weight.data[4:] = torch.eye(2)
    head.layer.self_attn.out_proj.weight.data = torch.eye(2)
    nn.init.zeros_(head.layer.linear2.weight)
    nn.init.constant_(head.layer.linear2.bias, 0.5)
    head.output.weight.data = torch.tensor([[1.0, 3.0]])
    nn.init.zeros_(head.output.bias)
    hidden_BTD = torch.tensor([[[5.0, 1.0], [99.0, 99.0]]])
    # (5, 1) + (5, 1), normed: (1, -1); plus 0.5, normed again: (1, -1); 1 · 1 + 3 · (-1).
    logit = head.eval()(hidden_BTD, torch.tensor([[True, False]])).item()
    assert logit == pytest.approx(-2.0, abs=1e-4)


# Equivalence with reference implementations.


def test_transformer_has_one_attention_head_per_64_dimensions() -> None:
    for hidden_size, num_heads in ((768, 12), (384, 6), (64, 1), (32, 1)):
        head = TransformerHead(hidden_size=hidden_size, num_labels=2, dropout=0.1)
        assert head.layer.self_attn.num_heads == num_heads


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_equals_packed_sequences(bidirectional: bool) -> None:
    torch.manual_seed(0)
    head = LSTMHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.1, bidirectional=bidirectional).eval()
    packed = nn.LSTM(HIDDEN, HIDDEN, batch_first=True, bidirectional=bidirectional)
    weights = dict(head.forward_lstm.named_parameters())
    if head.backward_lstm is not None:
        weights |= {f"{name}_reverse": parameter for name, parameter in head.backward_lstm.named_parameters()}
    packed.load_state_dict(weights)
    hidden_BTD, mask_BT = make_batch()
    documents = nn.utils.rnn.pack_padded_sequence(hidden_BTD, mask_BT.sum(1), batch_first=True, enforce_sorted=False)
    final_directions_BD = packed(documents)[1][0]
    expected_BC = head.output(torch.cat([*final_directions_BD], dim=1).tanh())
    torch.testing.assert_close(head(hidden_BTD, mask_BT), expected_BC, rtol=0, atol=1e-5)
