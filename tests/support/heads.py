"""Makers of each head, small."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

import imdbcls.heads
from imdbcls import build
from imdbcls.heads.weight_avg import WeightedAverageHead
from support.runs import ROOT

HIDDEN, CLASSES, POSITIONS = 128, 3, 512


Maker = Callable[[int], nn.Module]


HEADS = sorted(path.stem for path in (ROOT / "conf" / "head").glob("*.yaml"))


VARIANTS = {"lstm, bidirectional": ("head=lstm", "head.bidirectional=true")}


def make_head(overrides: Sequence[str], size: int) -> nn.Module:
    settings = dict(imdbcls.compose(*overrides, f"max_length={POSITIONS}").values["head"])
    del settings["name"]
    head = build.construct(settings, hidden_size=size, num_labels=CLASSES)
    if isinstance(head, WeightedAverageHead):  # normalized, they start at zero: nothing would depend on the position
        nn.init.normal_(head.position_weights)
    return head


# Every YAML in conf/head, so a new head is tested as soon as it can be chosen.
MAKERS: dict[str, Maker] = {
    name: partial(make_head, overrides)
    for name, overrides in ({name: (f"head={name}",) for name in HEADS} | VARIANTS).items()
}
