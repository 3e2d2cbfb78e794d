"""Tests for the input of heads that read several layers: from every encoder, from the cache, and in runs."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.encoders import distance, make_batch, use_layers
from support.encoders import make as make_encoder
from support.faults import PLUGINS
from support.hardware import needs_bf16
from support.heads import FOR_TWO_LAYERS, HIDDEN, LAYER_MAKERS, NUM_STATES, POSITIONS, make_head
from support.small_models import FAMILIES, SIZES, make_model
from support.trainers import make, train_epoch
from torch import Tensor, nn

from imdbcls import kernels
from imdbcls.data import features
from imdbcls.errors import UserError
from imdbcls.heads.pooling import token_mean
from imdbcls.heads.scalar_mix import ScalarMixHead
from imdbcls.kernels import HeadInput
from imdbcls.models.classifier import Classifier
from imdbcls.models.head_probe import tokens_read
from imdbcls.models.inference import predict_probabilities
from imdbcls.tracking import Trackers

INPUTS = [HeadInput("all", "mean"), HeadInput("all", "first"), HeadInput(2, "all"), HeadInput(2, "first")]
READ = {"scalar_mix": "mean", "last4": "first", "max_cls": "first", "layer_attention": "first", "max_seq": "all"}


def expected_input(states: tuple[Tensor, ...], head_input: HeadInput, mask_BT: Tensor) -> Tensor:
    """Compute a head's input from transformers' hidden states with plain operations: hidden_LBTD or hidden_LB1D."""
    hidden_LBTD = torch.stack(states if head_input.layers == "all" else states[-int(head_input.layers) :])
    if head_input.tokens == "first":
        return hidden_LBTD[:, :, :1]
    if head_input.tokens == "all":
        return hidden_LBTD * mask_BT.unsqueeze(2)
    sums_LBD = (hidden_LBTD * mask_BT.unsqueeze(2)).sum(dim=2)
    return (sums_LBD / mask_BT.sum(dim=1, keepdim=True)).unsqueeze(2)


@pytest.mark.parametrize("head_input", INPUTS, ids=str)
@pytest.mark.parametrize(
    ("model_type", "path"),
    [*(("bert", path) for path in ("kernels", "operations", "unpadded", "library")), ("modernbert", "unpadded")],
)
@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
def test_values_and_gradients_equal_the_librarys(
    model_type: str, path: str, bf16: bool, head_input: HeadInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the library in fp32. In bf16, allow about twice the library's own error in bf16."""
    use_layers(path, monkeypatch)
    library = make_encoder(model_type)
    ours = copy.deepcopy(library)
    if path != "library":
        kernels.accelerate(ours)
    ids_BT, mask_BT = make_batch(library)
    mask_BT = mask_BT.bool()

    def run(encoder: nn.Module, bf16: bool, is_library: bool) -> dict[str, Tensor]:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if is_library:
                states = encoder(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True).hidden_states
                hidden = expected_input(states, head_input, mask_BT)
            else:
                hidden = kernels.encode(encoder, ids_BT, mask_BT, head_input=head_input)
                hidden = hidden * mask_BT.unsqueeze(2) if head_input.tokens == "all" else hidden
        hidden = hidden.float()
        generator = torch.Generator().manual_seed(2)
        (hidden * torch.randn(hidden.shape, generator=generator)).mean().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        return {"hidden": hidden.detach(), **gradients}

    exact, found = run(library, False, True), run(ours, bf16, False)
    theirs = run(library, bf16, True)
    unseen = exact.keys() - found.keys()  # the docstring of `first_token_of` says why
    assert found.keys() <= exact.keys() and all(name.endswith("key.bias") for name in unseen)
    assert found["hidden"].shape == exact["hidden"].shape
    largest = max(float(exact[name].abs().max()) for name in exact if name != "hidden")
    for name, tensor in found.items():
        if bf16 and not name.endswith("key.bias"):  # the gradient of the key bias is zero in exact arithmetic
            assert distance(tensor, exact[name]) < 2 * distance(theirs[name], exact[name]) + 0.01, name
        elif not bf16:
            atol = 1e-5 if name == "hidden" else 4e-6 * largest
            torch.testing.assert_close(tensor, exact[name], atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", sorted(set(FAMILIES.values())))
def test_pooled_input_gives_the_logits_of_all_tokens(family: str, fast: bool) -> None:
    """Check every head and encoder in evaluation mode. A document has the same logits in any batch."""
    encoder = make_model(family).eval()
    if fast:
        kernels.accelerate(encoder)
    ids_BT, mask_BT = make_batch(encoder, (21, 1, 33))
    mask_BT = mask_BT.bool()
    for name, read in READ.items():
        torch.manual_seed(0)
        num_states = SIZES["num_hidden_layers"] + 1
        head = make_head((f"head={name}", *FOR_TWO_LAYERS.get(name, ())), SIZES["hidden_size"], num_states).eval()
        pooled = Classifier(encoder, head, tokens=read).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            assert pooled.encode(ids_BT, mask_BT, None).shape[2] == (ids_BT.shape[1] if read == "all" else 1)
            found_BC, expected_BC = (model(ids_BT, mask_BT) for model in (pooled, Classifier(encoder, head).eval()))
            alone_1C = pooled(ids_BT[1:2, :1], mask_BT[1:2, :1])
        torch.testing.assert_close(found_BC, expected_BC, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone_1C[0], found_BC[1], atol=1e-5, rtol=1e-5)


# What a head reads.


class GatedMixHead(ScalarMixHead):
    """A head that can learn to read vectors other than the mean. At first, it ignores them."""

    def __init__(self) -> None:
        super().__init__(hidden_size=HIDDEN, num_labels=3, num_hidden_states=NUM_STATES, dropout=0.1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_LBTD: Tensor, mask_BT: Tensor) -> Tensor:
        return super().forward(hidden_LBTD, mask_BT) + self.gate * self.output(hidden_LBTD[-1].amax(dim=1))


@pytest.mark.parametrize("name", LAYER_MAKERS)
def test_vectors_that_each_head_reads(name: str) -> None:
    head, state = LAYER_MAKERS[name](HIDDEN), torch.get_rng_state()
    before = copy.deepcopy(head.state_dict())
    num_states = getattr(head, "num_layers", NUM_STATES)
    assert tokens_read(head, HIDDEN, POSITIONS, num_states) == READ[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in head.state_dict().items())


def test_head_that_may_learn_to_read_more_than_the_mean() -> None:
    assert tokens_read(GatedMixHead(), HIDDEN, POSITIONS, NUM_STATES) == "all"


def test_mean_of_one_vector_is_this_vector() -> None:
    hidden_LB1D = torch.randn(3, 2, 1, 8)
    mask_BT = torch.tensor([[True, True, True], [True, False, False]])
    assert torch.equal(token_mean(hidden_LB1D, mask_BT), hidden_LB1D[:, :, 0])


# Runs.


RUNS = {
    "library layers": ("backbone.fast=false",),
    "bf16": ("precision=bf16",),
    "windows": ("data.truncation=windows", "max_length=24", "trainer.micro_batch_size=5"),
    "lora": ("backbone.lora_rank=2",),
    "checkpointing": ("backbone.gradient_checkpointing=true",),
    "ema": ("trainer.ema_decay=0.9", "loss.r_drop=0.5", "backbone.attention_dropout=0.1"),
    "partly frozen": ("backbone.freeze=1", "optimizer.layer_decay=0.9"),
}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("head", ["scalar_mix", "max_cls"])
def test_training(head: str, kind: str, tmp_path: Path) -> None:
    """The losses do not depend on the implementation."""
    settings = (f"head={head}", *FOR_TWO_LAYERS.get(head, ()), "backbone.dropout=0", "head.dropout=0", "lr=1e-3")
    trainer = make(tmp_path, *settings, *RUNS[kind])
    assert trainer.model.head_input.tokens == READ[head]
    losses = train_epoch(trainer)
    assert np.isfinite(losses).all()
    if kind in ("library layers", "checkpointing"):
        assert losses == pytest.approx(train_epoch(make(tmp_path / "reference", *settings)), abs=1e-4)
    trainer.evaluation_model.sync()
    assert trainer.evaluator.scores("validation", trainer.batches.validation) is not None


@pytest.mark.parametrize("truncation", ["head", "windows"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", ["scalar_mix", "last4", "max_seq"])
def test_evaluation_from_the_cache_gives_the_same_bits(
    head: str, precision: str, truncation: str, tmp_path: Path
) -> None:
    own = FOR_TWO_LAYERS.get(head, ())
    settings = (f"head={head}", *own, "backbone.freeze=true", f"precision={precision}", f"data.truncation={truncation}")
    probabilities = []
    for cache in ("true", "false"):
        trainer = make(
            tmp_path / cache, *settings, "max_length=24", f"backbone.cache={cache}", f"data.cache_dir={tmp_path}"
        )
        batch = next(iter(trainer.batches.validation))
        assert (batch.features is not None) == (cache == "true")
        probabilities.append(predict_probabilities(trainer.model, trainer.batches.validation, trainer.hardware))
    assert np.array_equal(*probabilities)


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_training_from_the_cache_equals_training_without_it(truncation: str, tmp_path: Path) -> None:
    """The runs use dropout, micro-batches, and documents longer than max_length."""
    settings = ("head=scalar_mix", f"data.truncation={truncation}", "max_length=24", "trainer.micro_batch_size=5")
    found = []
    for cache in ("true", "false"):
        folder = tmp_path / cache
        trainer = make(
            folder,
            *settings,
            "backbone.freeze=true",
            "lr=1e-2",
            f"backbone.cache={cache}",
            f"data.cache_dir={tmp_path}",
        )
        trainer.fit(Trackers())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([{key: value for key, value in line.items() if "second" not in key} for line in lines])
    with_cache, without = found
    assert len(with_cache) == len(without) > 4
    for point, expected in zip(with_cache, without, strict=True):
        assert point == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_cache_stores_one_vector_per_layer_and_document(tmp_path: Path) -> None:
    """A number has 4 bytes. Heads with different inputs have separate entries."""
    shared = ("backbone.freeze=true", f"data.cache_dir={tmp_path}")

    def sizes() -> dict[str, int]:
        return {path.parent.name: path.stat().st_size for path in tmp_path.glob(f"features/*/{features.VECTORS}")}

    known: dict[str, int] = {}
    for head, num_states in (("scalar_mix", 3), ("layer_attention", 3), ("last4", 2)):
        trainer = make(tmp_path / head, *shared, f"head={head}", *FOR_TWO_LAYERS.get(head, ()))
        added = {name: size for name, size in sizes().items() if name not in known}
        assert len(added) == 3
        assert sum(added.values()) == 4 * num_states * 64 * (64 + 24 + 40)
        known |= added
        batch = next(trainer.batches.train.epoch(0))
        assert batch.features is not None and batch.features.shape == (num_states, len(batch), 1, 64)
        assert torch.equal(batch.split(5)[1].features, batch.features[:, 5:10])  # type: ignore[arg-type]
    make(tmp_path / "again", *shared, "head=max_cls", *FOR_TWO_LAYERS["max_cls"])
    assert sizes() == known, "max_cls reads what last4 reads"
    limit = f"backbone.cache_gb={sum(known.values()) / 1e9!r}"
    with pytest.raises(UserError, match=r"output \(3 hidden states per document or window\) needs \d\.\d+ MB"):
        make(tmp_path / "full", *shared, "head=scalar_mix", "seed=1", limit)


def test_encoder_with_too_few_layers_is_refused(tmp_path: Path) -> None:
    message = (
        r"^head\.num_layers=4: head=last4 reads the last 4 layers, but backbone=tiny has 2\. Set head\.num_layers to a "
        r"number from 1 to 2\.$"
    )
    with pytest.raises(UserError, match=message):
        make(tmp_path, "head=last4")


def test_constructor_must_accept_num_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGINS["PYTHONPATH"])
    settings = ("head=mean", "plugins=[layered]", "head._target_=layered.LastWithoutNumberHead")
    with pytest.raises(UserError, match="sets reads_last_layers, so its constructor must accept num_layers"):
        make(tmp_path, *settings)
