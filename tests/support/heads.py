"""Build a small head of each kind."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

import imdbcls.heads
from imdbcls.config.schema import HeadConfig
from imdbcls.construction import construct
from imdbcls.heads.weight_avg import WeightedAverageHead
from support.runs import ROOT

HIDDEN, CLASSES, POSITIONS = 128, 3, 512
LENGTHS = (17, 1, 40, 2, 33)


Maker = Callable[[int], nn.Module]


HEADS = sorted(path.stem for path in (ROOT / "conf" / "head").glob("*.yaml"))


VARIANTS = {
    "lstm, bidirectional": ("head=lstm", "head.bidirectional=true"),
    "bilstm, mean": ("head=bilstm", "head.pooling=mean"),
    "cnn, wide": ("head=cnn", "head.widths=[1,45]"),
}


@lru_cache
def settings_of(*overrides: str) -> HeadConfig:
    return imdbcls.compose(*overrides, f"max_length={POSITIONS}").head


def make_head(overrides: Sequence[str], size: int) -> nn.Module:
    head = construct(settings_of(*overrides), hidden_size=size, num_labels=CLASSES)
    if isinstance(
        head, WeightedAverageHead
    ):  # normalized weights start at zero, so the output would not depend on positions
        nn.init.normal_(head.position_weights)
    return head


# All YAML files in conf/head, so that new heads are tested automatically.
MAKERS: dict[str, Maker] = {
    name: partial(make_head, overrides)
    for name, overrides in ({name: (f"head={name}",) for name in HEADS} | VARIANTS).items()
}


def make_batch(lengths: Sequence[int] = LENGTHS, padding: float = 1e4) -> tuple[Tensor, Tensor]:
    """Return random hidden_BTD and mask_BT. Padding vectors are huge, to detect heads that read them."""
    generator = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    hidden_BTD = torch.randn(*mask_BT.shape, HIDDEN, generator=generator)
    return hidden_BTD.masked_fill(~mask_BT.unsqueeze(2), padding), mask_BT


# A case computed by hand: two dimensions, three real tokens and one padding token. One class sums the pooled vector.
HAND_TD = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, -1.0], [99.0, 99.0]])
HAND_MASK_T = torch.tensor([True, True, True, False])


def by_hand(head: nn.Module) -> float:
    """Return the single logit for the document above; `output` sums the dimensions."""
    nn.init.ones_(head.output.weight)
    nn.init.zeros_(head.output.bias)
    with torch.no_grad():
        return head.eval()(HAND_TD.unsqueeze(0), HAND_MASK_T.unsqueeze(0)).item()
