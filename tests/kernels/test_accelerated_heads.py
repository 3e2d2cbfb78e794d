"""Accelerated heads have the same values, gradients and parameters as plain heads, even after a copy."""

import copy

import pytest
import torch
from support.heads import ALL_MAKERS, CLASSES, HIDDEN, batch_of, make_batch
from torch import Tensor, nn

from imdbcls.heads.bilstm import BiLSTMHead
from imdbcls.heads.gru import GRUHead
from imdbcls.heads.lstm import LSTMHead
from imdbcls.heads.transformer import TransformerHead
from imdbcls.kernels.heads import accelerate_head, kernels_of_head


@pytest.fixture(params=ALL_MAKERS)
def plain_head(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return ALL_MAKERS[request.param](HIDDEN).eval()


def results(head: nn.Module, *, bf16: bool = False) -> dict[str, Tensor]:
    """Return the logits, and all gradients of a fixed function of the logits."""
    head.zero_grad()
    hidden, mask_BT = batch_of(head, padding=0.0)
    hidden.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits_BC = head(hidden, mask_BT).float()
    weights_BC = torch.randn(logits_BC.shape, generator=torch.Generator().manual_seed(2))
    (logits_BC * weights_BC).sum().backward()
    assert hidden.grad is not None
    gradients = {name: weight.grad.clone() for name, weight in head.named_parameters() if weight.grad is not None}
    return {"logits": logits_BC.detach(), "tokens": hidden.grad, **gradients}


def without_dropout(head: nn.Module) -> nn.Module:
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return head


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_accelerated_head_equals_plain_head(plain_head: nn.Module, training: bool, bf16: bool) -> None:
    """Compare results without dropout. Copies of an accelerated head are accelerated and have their own weights."""
    head = without_dropout(plain_head).train(training)
    accelerated = copy.deepcopy(head)
    accelerate_head(accelerated)
    copied = copy.deepcopy(accelerated)
    assert list(accelerated.state_dict()) == list(head.state_dict())
    expected, found, again = (results(each, bf16=bf16) for each in (head, accelerated, copied))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 0.05 * float(value.abs().max()) + 0.02 if bf16 else 1e-5
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0 if bf16 else 1e-5, msg=name)
        assert torch.equal(again[name], found[name]), name
    for weight in copied.parameters():
        weight.data.zero_()
    assert not results(copied)["logits"].any() and results(accelerated)["logits"].any()


def test_checkpoint_loads_into_accelerated_head(plain_head: nn.Module) -> None:
    accelerated = copy.deepcopy(plain_head)
    accelerate_head(accelerated)
    with torch.no_grad():
        for weight in plain_head.parameters():
            weight.mul_(1.5)
    accelerated.load_state_dict(plain_head.state_dict())
    batch = batch_of(plain_head)
    torch.testing.assert_close(accelerated(*batch), plain_head(*batch), atol=1e-5, rtol=1e-5)


def test_subclass_keeps_overridden_methods() -> None:
    class MeanOfLayerHead(TransformerHead):
        def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
            return self.output(self.layer(hidden_BTD, src_key_padding_mask=~mask_BT).mean(dim=1))

    class ZeroLSTMHead(LSTMHead):
        @staticmethod
        def final_output(lstm: nn.LSTM, hidden_BTD: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
            return torch.zeros(len(hidden_BTD), lstm.hidden_size)

    class ZeroBiLSTMHead(BiLSTMHead):
        def pooled_output(self, lstm: nn.LSTM, hidden: Tensor, mask_BT: Tensor, *, backward: bool = False) -> Tensor:
            return torch.zeros(len(hidden), lstm.hidden_size)

    settings = {"hidden_size": HIDDEN, "num_labels": CLASSES, "dropout": 0.1}
    zeros = ZeroLSTMHead(**settings, bidirectional=False), ZeroBiLSTMHead(**settings, pooling="max")
    for head in (MeanOfLayerHead(**settings), *zeros):
        expected_BC = head.eval()(*make_batch())
        accelerate_head(head)
        assert torch.equal(head(*make_batch()), expected_BC)


def test_nested_head_is_accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kernels_of_head` reports the kernels of the nested layers; a plain layer uses PyTorch's implementation."""
    kernels = object()
    monkeypatch.setattr("imdbcls.kernels.recurrent.load", lambda dtype: kernels)
    settings = {"hidden_size": HIDDEN, "num_labels": CLASSES, "dropout": 0.1}
    inner = LSTMHead(**settings, bidirectional=False), BiLSTMHead(**settings, pooling="max"), GRUHead(**settings)
    head = nn.ModuleList([*inner, nn.LSTM(HIDDEN, HIDDEN), nn.GRU(HIDDEN, HIDDEN)])
    assert list(kernels_of_head(head, torch.float32)) == [None] * 6
    accelerate_head(head)
    assert list(kernels_of_head(head, torch.float32)) == [kernels] * 4 + [None] * 2


def test_fast_dropout_has_pytorchs_distribution() -> None:
    """Check the share of kept elements, their scale, the gradient, new masks in each call, and evaluation mode."""
    torch.manual_seed(0)
    dropout, hidden_BTD = nn.Dropout(0.3), torch.ones(8, 100, 64, requires_grad=True)
    accelerate_head(dropout)
    first_BTD, second_BTD = dropout(hidden_BTD), dropout(hidden_BTD)
    kept = (first_BTD > 0).float().mean().item()
    assert kept == pytest.approx(0.7, abs=0.01)  # five standard errors
    torch.testing.assert_close(first_BTD, (first_BTD > 0) / 0.7)
    assert not torch.equal(first_BTD, second_BTD)
    first_BTD.sum().backward()
    torch.testing.assert_close(hidden_BTD.grad, first_BTD.detach())
    assert torch.equal(dropout.eval()(hidden_BTD), hidden_BTD)


def test_fast_dropout_only_applies_to_token_vectors() -> None:
    """Pooled document vectors use PyTorch's masks; a head that reads only the first token has no other vectors."""
    dropout, fast = nn.Dropout(0.3), nn.Dropout(0.3)
    accelerate_head(fast)
    for shape, same in (((8, 64), True), ((8, 10, 64), False), ((3, 8, 10, 64), False)):
        tensor, masks = torch.ones(shape), []
        for each in (dropout, fast):
            torch.manual_seed(0)
            masks.append(each(tensor))
        assert torch.equal(*masks) == same
        assert masks[1].unique().tolist() == pytest.approx([0, 1 / 0.7])
    in_place, tensor = nn.Dropout(0.3, inplace=True), torch.ones(8, 10, 64)
    accelerate_head(in_place)
    assert in_place(tensor) is tensor and not tensor.all()


def test_accelerated_transformer_trains_like_pytorchs_attention() -> None:
    """With the same dropout masks on the attention probabilities, logits and gradients are the same."""
    head = TransformerHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.2).train()
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    layer = head.layer
    nn.init.normal_(layer.self_attn.in_proj_bias)
    hidden_BTD, mask_BT = make_batch()
    found = []
    for accelerated in (False, True):
        head.zero_grad()
        torch.manual_seed(1)
        if accelerated:
            accelerate_head(head)
            logits_BC = head(hidden_BTD, mask_BT)
        else:
            first_B1D = hidden_BTD[:, :1]
            attended_B1D, _ = layer.self_attn(first_B1D, hidden_BTD, hidden_BTD, key_padding_mask=~mask_BT)
            first_B1D = layer.norm1(first_B1D + attended_B1D)
            updated_B1D = layer.linear2(nn.functional.gelu(layer.linear1(first_B1D)))
            logits_BC = head.output(layer.norm2(first_B1D + updated_B1D)[:, 0])
        logits_BC.square().sum().backward()
        gradients = [weight.grad for weight in head.parameters()]
        assert all(gradient is not None for gradient in gradients)
        found.append([logits_BC.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
