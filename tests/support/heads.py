"""Build a small head of each kind."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

import imdbcls.heads
from imdbcls.config.schema import HeadConfig
from imdbcls.config.signatures import ALL_LAYERS
from imdbcls.construction import construct
from imdbcls.heads.weight_avg import WeightedAverageHead
from imdbcls.models.classifier import layers_read
from imdbcls.sections import signature_of_head
from support.runs import ROOT

HIDDEN, CLASSES, POSITIONS = 128, 3, 512
LENGTHS = (17, 1, 40, 2, 33)
NUM_STATES = 5  # hidden states for heads that read all layers: the embeddings and four layers


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


def make_head(overrides: Sequence[str], size: int, num_states: int = NUM_STATES) -> nn.Module:
    settings = settings_of(*overrides)
    given = {ALL_LAYERS: num_states} if signature_of_head(settings).reads_all_layers else {}
    head = construct(settings, hidden_size=size, num_labels=CLASSES, **given)
    if isinstance(
        head, WeightedAverageHead
    ):  # normalized weights start at zero, so the output would not depend on positions
        nn.init.normal_(head.position_weights)
    return head


def reads_several_layers(*overrides: str) -> bool:
    signature = signature_of_head(settings_of(*overrides))
    return signature.reads_all_layers or signature.reads_last_layers


# All YAML files in conf/head, so that new heads are tested automatically. `MAKERS` are the heads that read only the
# last layer, `LAYER_MAKERS` the heads that read several layers.
ALL_MAKERS: dict[str, Maker] = {
    name: partial(make_head, overrides)
    for name, overrides in ({name: (f"head={name}",) for name in HEADS} | VARIANTS).items()
}
LAYER_HEADS = [name for name in HEADS if reads_several_layers(f"head={name}")]
LAYER_MAKERS = {name: maker for name, maker in ALL_MAKERS.items() if name in LAYER_HEADS}
MAKERS = {name: maker for name, maker in ALL_MAKERS.items() if name not in LAYER_HEADS}

# Settings of heads for the tiny backbone, which has only two layers.
FOR_TWO_LAYERS = {
    name: ("head.num_layers=2",) for name in HEADS if signature_of_head(settings_of(f"head={name}")).reads_last_layers
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
    """Return the single logit for the document `HAND_TD`, after setting `output` to sum the dimensions."""
    nn.init.ones_(head.output.weight)
    nn.init.zeros_(head.output.bias)
    with torch.no_grad():
        return head.eval()(HAND_TD.unsqueeze(0), HAND_MASK_T.unsqueeze(0)).item()


def batch_of(head: nn.Module, padding: float = 1e4) -> tuple[Tensor, Tensor]:
    """Return random hidden states of the layers that a head reads, and mask_BT."""
    several = layers_read(head) != "last"
    return make_layers_batch(head, padding=padding) if several else make_batch(padding=padding)


def check_bf16_autocast(head: nn.Module) -> None:
    """Assert that a head computes in bf16 under autocast, close to float32, with finite gradients."""
    hidden, mask_BT = batch_of(head, padding=0.0)
    expected_BC = head(hidden, mask_BT)
    for encoder_dtype in (torch.float32, torch.bfloat16):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits_BC = head(hidden.to(encoder_dtype), mask_BT)
        assert logits_BC.dtype == torch.bfloat16
        torch.testing.assert_close(logits_BC.float(), expected_BC, rtol=0.03, atol=0.05)
        logits_BC.float().logsumexp(1).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def make_layers_batch(
    head: nn.Module, lengths: Sequence[int] = LENGTHS, padding: float = 1e4, size: int = HIDDEN
) -> tuple[Tensor, Tensor]:
    """Return random hidden_LBTD of the layers that a head reads, and mask_BT. Padding vectors are huge."""
    layers = layers_read(head)
    num_states = layers if isinstance(layers, int) else NUM_STATES
    generator = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    hidden_LBTD = torch.randn(num_states, *mask_BT.shape, size, generator=generator)
    return hidden_LBTD.masked_fill(~mask_BT.unsqueeze(2), padding), mask_BT
