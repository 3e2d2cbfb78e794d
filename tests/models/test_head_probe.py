"""Tests for the probe that finds out whether a head reads only the first token."""

import copy

import pytest
import torch
from support.heads import CLASSES, HIDDEN, MAKERS, POSITIONS
from torch import Tensor, nn

from imdbcls.heads.cls import ClsHead
from imdbcls.heads.pooling import last_real_token
from imdbcls.models.head_probe import reads_first_token_only


class TokenHead(nn.Module):
    """A head that reads the token at one position, or at the last position of a shorter batch."""

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = position
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(self.dropout(hidden_BTD[:, min(self.position, hidden_BTD.shape[1] - 1)]))


class LastTokenHead(TokenHead):
    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(last_real_token(hidden_BTD, mask_BT))


class ArgmaxHead(TokenHead):
    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        largest_B = hidden_BTD[:, :, 0].argmax(dim=1)
        return self.output(hidden_BTD[torch.arange(len(hidden_BTD)), largest_B])


class CountingHead(TokenHead):
    """A head that compares the other tokens with a number: its logits are finite even if the tokens are NaN."""

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(hidden_BTD[:, 0] + (hidden_BTD > 0).float().mean(dim=1))


class GatedHead(TokenHead):
    """A head that ignores the other tokens at first and can learn to read them."""

    def __init__(self) -> None:
        super().__init__(0)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return super().forward(hidden_BTD, mask_BT) + self.gate * self.output(hidden_BTD.mean(dim=1))


class DroppingHead(TokenHead):
    """A head that reads the last token in training, and the first token in evaluation."""

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(hidden_BTD[:, -1 if self.training else 0])


class FailingHead(TokenHead):
    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        if not hidden_BTD.isfinite().all():
            raise RuntimeError("NaN")
        return super().forward(hidden_BTD, mask_BT)


class WiderClsHead(ClsHead):
    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return super().forward(hidden_BTD, mask_BT) + self.output(hidden_BTD[:, 1])


class FirstOfEveryLayerHead(TokenHead):
    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(hidden_LBTD[:, :, 0].mean(dim=0))


class NormalisingHead(TokenHead):
    def __init__(self) -> None:
        super().__init__(0)
        self.dropout = nn.BatchNorm1d(HIDDEN)


READ_FIRST_ONLY: dict[str, nn.Module] = {
    "first": TokenHead(0),
    "cls": ClsHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.1),
    "batch normalization": NormalisingHead(),
}
READ_MORE: dict[str, nn.Module] = {
    "second": TokenHead(1),
    "hundredth": TokenHead(99),
    "last": LastTokenHead(0),
    "argmax": ArgmaxHead(0),
    "counting": CountingHead(0),
    "gated": GatedHead(),
    "in training": DroppingHead(0),
    "failing": FailingHead(0),
    "subclass of cls": WiderClsHead(hidden_size=HIDDEN, num_labels=CLASSES, dropout=0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_which_heads_read_only_the_first_token(name: str) -> None:
    assert reads_first_token_only(MAKERS[name](HIDDEN), HIDDEN, POSITIONS) == (name in ("cls", "linear"))


@pytest.mark.parametrize("name", READ_FIRST_ONLY)
def test_head_that_reads_only_the_first_token(name: str) -> None:
    """Batch normalization is supported: the probe changes neither its statistics nor the random state."""
    head = READ_FIRST_ONLY[name]
    before, state = copy.deepcopy(head.state_dict()), torch.get_rng_state()
    assert reads_first_token_only(head, HIDDEN, POSITIONS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in head.state_dict().items())


@pytest.mark.parametrize("name", READ_MORE)
def test_head_that_may_read_other_tokens(name: str) -> None:
    assert not reads_first_token_only(READ_MORE[name], HIDDEN, POSITIONS)


def test_head_that_reads_the_first_token_of_every_layer() -> None:
    assert reads_first_token_only(FirstOfEveryLayerHead(0), HIDDEN, POSITIONS, num_layers=3)
    assert not reads_first_token_only(FirstOfEveryLayerHead(0), HIDDEN, POSITIONS)
