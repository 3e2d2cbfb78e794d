"""Tests for every head that reads several layers: shapes, gradients, padding, and cases computed by hand."""

import math

import pytest
import torch
from support.heads import CLASSES, HIDDEN, LAYER_MAKERS, LENGTHS, check_bf16_autocast, make_layers_batch
from torch import Tensor, nn

from imdbcls.heads.last4 import LastFourHead
from imdbcls.heads.layer_attention import LayerAttentionHead
from imdbcls.heads.max_cls import MaxClsHead
from imdbcls.heads.max_seq import MaxSeqHead
from imdbcls.heads.scalar_mix import ScalarMixHead
from imdbcls.kernels.heads import accelerate_head


@pytest.fixture(params=[(name, fast) for fast in (False, True) for name in LAYER_MAKERS], ids=str)
def head(request: pytest.FixtureRequest) -> nn.Module:
    name, fast = request.param
    torch.manual_seed(0)
    head = LAYER_MAKERS[name](HIDDEN).eval()
    for parameter in head.parameters():
        if not parameter.any():  # equal weights for all layers would hide an error in the weights
            nn.init.normal_(parameter)
    if fast:
        accelerate_head(head)
    return head


def test_heads_are_found() -> None:
    assert len(LAYER_MAKERS) >= 5


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_every_parameter_and_real_tokens_only(head: nn.Module, training: bool) -> None:
    head.train(training)
    hidden_LBTD, mask_BT = make_layers_batch(head)
    hidden_LBTD.requires_grad_(True)
    weights_BC = torch.randn(len(LENGTHS), CLASSES, generator=torch.Generator().manual_seed(2))
    logits_BC = head(hidden_LBTD, mask_BT)
    assert logits_BC.shape == (len(LENGTHS), CLASSES) and logits_BC.dtype == torch.float32
    (logits_BC * weights_BC).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    gradient_LBTD = hidden_LBTD.grad
    assert gradient_LBTD is not None
    assert gradient_LBTD[:, ~mask_BT].abs().max() == 0
    read_L = (gradient_LBTD.abs().amax(dim=(2, 3)) > 0).all(dim=1)
    assert read_L[1:].all(), "a layer has no influence on the logits of a document"
    assert read_L[0] or isinstance(head, LayerAttentionHead), "only this head ignores the embeddings"


def test_logits_of_a_document_do_not_depend_on_its_batch(head: nn.Module) -> None:
    hidden_LBTD, mask_BT = make_layers_batch(head)
    together_BC = head(hidden_LBTD, mask_BT)
    for row, length in enumerate(LENGTHS):
        alone_1C = head(hidden_LBTD[:, row : row + 1, :length], mask_BT[row : row + 1, :length])
        assert alone_1C.shape == (1, CLASSES)
        torch.testing.assert_close(alone_1C[0], together_BC[row], rtol=0, atol=1e-5)
    other_padding_BC = head(*make_layers_batch(head, padding=-7.0))
    torch.testing.assert_close(other_padding_BC, together_BC, rtol=0, atol=0)
    head.train()
    head(*make_layers_batch(head, (3, 2)))  # other documents and training must leave no state
    assert torch.equal(head.eval()(hidden_LBTD, mask_BT), together_BC)


def test_bf16_autocast(head: nn.Module) -> None:
    check_bf16_autocast(head)


# Cases computed by hand: three hidden states of two dimensions, two real tokens and one padding token.

HAND_LTD = torch.tensor(
    [
        [[1.0, 0.0], [3.0, 2.0], [99.0, 99.0]],
        [[-1.0, 4.0], [5.0, 0.0], [99.0, 99.0]],
        [[2.0, 1.0], [0.0, 5.0], [99.0, 99.0]],
    ]
)


def by_hand(head: nn.Module, output: list[float], hidden_LTD: Tensor = HAND_LTD) -> float:
    """Return the single logit for `hidden_LTD`; `output` contains the weights of the last linear layer."""
    head.output.weight.data = torch.tensor([output])  # type: ignore[union-attr]
    nn.init.zeros_(head.output.bias)  # type: ignore[arg-type, union-attr]
    with torch.no_grad():
        return head.eval()(hidden_LTD.unsqueeze(1), torch.tensor([[True, True, False]])).item()


def test_scalar_mix_by_hand() -> None:
    head = ScalarMixHead(hidden_size=2, num_labels=1, num_hidden_states=3, dropout=0.5)
    # The means over the tokens are (2, 1), (2, 2) and (1, 3). Their mean is (5/3, 2).
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(5 / 3 + 20), "training starts from the mean over the layers"
    head.layer_logits.data = torch.tensor([0.2, 0.3, 0.5]).log() + 7
    head.scale.data = torch.tensor([2.0])
    # 2 · (0.2 · (2, 1) + 0.3 · (2, 2) + 0.5 · (1, 3)) = (3, 4.6)
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(3 + 46)


def test_last4_by_hand() -> None:
    head = LastFourHead(hidden_size=2, num_labels=1, num_layers=3, dropout=0.5)
    # The first tokens of the layers, from the lowest to the last layer, are (1, 0), (-1, 4) and (2, 1).
    assert by_hand(head, [1.0, 10.0, 1e2, 1e3, 1e4, 1e5]) == pytest.approx(1 - 1e2 + 4e3 + 2e4 + 1e5)


def test_max_cls_by_hand() -> None:
    head = MaxClsHead(hidden_size=2, num_labels=1, num_layers=3, dropout=0.5)
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(2 + 40)


def test_layer_attention_by_hand() -> None:
    head = LayerAttentionHead(hidden_size=2, num_labels=1, num_hidden_states=3, dropout=0.5)
    head.projection.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # swaps the dimensions
    # The first tokens of the two layers are (-1, 4) and (2, 1). With equal weights: (0.5, 2.5), swapped: (2.5, 0.5).
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(2.5 + 5), "training starts from the mean over the layers"
    head.query.data = torch.tensor([1.0, 0.5])
    second = 1 / (1 + math.exp(1 - 2.5))  # the scores are -1 + 2 = 1 and 2 + 0.5 = 2.5
    expected = ((1 - second) * 4 + second * 1) + 10 * ((1 - second) * -1 + second * 2)
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(expected)


def test_max_seq_by_hand() -> None:
    head = MaxSeqHead(hidden_size=2, num_labels=1, num_layers=3, num_heads=1, dropout=0.5)
    query_22, key_22, value_22 = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.eye(2), torch.eye(2)
    head.attention.in_proj_weight.data = torch.cat((query_22, key_22, value_22))
    head.attention.out_proj.weight.data = torch.eye(2)
    # The maxima over the layers are (2, 4) and (5, 5). With the query (2, 0), the scores are 4 / √2 and 10 / √2.
    second = 1 / (1 + math.exp((4 - 10) / math.sqrt(2)))
    expected = (1 - second) * 2 + second * 5 + 10 * ((1 - second) * 4 + second * 5)
    assert by_hand(head, [1.0, 10.0]) == pytest.approx(expected)


def test_max_seq_rejects_heads_that_do_not_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match="num_heads=3 must divide the hidden size of the encoder, 4"):
        MaxSeqHead(hidden_size=4, num_labels=2, num_layers=3, num_heads=3, dropout=0.1)
