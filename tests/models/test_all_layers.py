"""Tests for heads that read all layers: their input from each encoder, and complete runs."""

import copy
import itertools
import json
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.encoders import distance, make_batch, use_layers
from support.encoders import make as make_encoder
from support.faults import PLUGINS
from support.hardware import needs_bf16
from support.runs import TINY, Launch
from support.small_models import FAMILIES, SIZES, make_folder, make_model
from support.trainers import make, train_epoch
from torch import Tensor, nn

from imdbcls import kernels
from imdbcls.data import features
from imdbcls.errors import UserError
from imdbcls.kernels import HeadInput
from imdbcls.models import torch_compile
from imdbcls.models.classifier import Classifier
from imdbcls.models.encoders import count_hidden_states
from imdbcls.models.inference import predict_probabilities

LAYERS = ("head=mean", "plugins=[layered]", "head._target_=layered.LayersHead", "head.name=layers")
NUM_STATES = SIZES["num_hidden_layers"] + 1


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGINS["PYTHONPATH"])


def layers_head(hidden_size: int, num_hidden_states: int) -> nn.Module:
    from layered import LayersHead

    return LayersHead(hidden_size=hidden_size, num_labels=3, num_hidden_states=num_hidden_states).eval()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("family", sorted(set(FAMILIES.values())))
def test_hidden_states_equal_the_librarys(family: str, fast: bool) -> None:
    """The embeddings are first, the output is last, and the logits of a document do not depend on its batch."""
    encoder = make_model(family).eval()
    library = copy.deepcopy(encoder)
    if fast:
        kernels.accelerate(encoder)
    model = Classifier(encoder, layers_head(SIZES["hidden_size"], NUM_STATES)).eval()
    ids_BT, mask_BT = make_batch(encoder, (21, 5, 33))
    mask_BT = mask_BT.bool()
    with torch.no_grad():
        hidden_LBTD = model.encode(ids_BT, mask_BT, None)
        expected = library(
            input_ids=ids_BT, attention_mask=kernels.attention_mask(library, mask_BT), output_hidden_states=True
        )
        assert hidden_LBTD.shape == (NUM_STATES, *ids_BT.shape, SIZES["hidden_size"])
        for hidden_BTD, expected_BTD in zip(hidden_LBTD, expected.hidden_states, strict=True):
            torch.testing.assert_close(hidden_BTD[mask_BT], expected_BTD[mask_BT], atol=1e-5, rtol=1e-5)
        embedded_BTD = (
            library.embeddings(ids_BT, mask=mask_BT) if family == "deberta-v2" else library.embeddings(ids_BT)
        )
        torch.testing.assert_close(hidden_LBTD[0][mask_BT], embedded_BTD[mask_BT], atol=1e-5, rtol=1e-5)
        last_BTD = expected.last_hidden_state
        torch.testing.assert_close(hidden_LBTD[-1][mask_BT], last_BTD[mask_BT], atol=1e-5, rtol=1e-5)
        together_BC = model(ids_BT, mask_BT)
        alone_1C = model(ids_BT[1:2, :5], mask_BT[1:2, :5])
    torch.testing.assert_close(alone_1C[0], together_BC[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=needs_bf16)])
@pytest.mark.parametrize(
    ("model_type", "path"),
    [
        *itertools.product(["bert", "roberta"], ["kernels", "operations", "unpadded"]),
        ("modernbert", "unpadded"),
    ],
)
def test_fast_layers_return_all_hidden_states(
    model_type: str, bf16: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the library in fp32. In bf16, allow about twice the library's own error in bf16."""
    use_layers(path, monkeypatch)
    library = make_encoder(model_type)
    fast = copy.deepcopy(library)
    kernels.accelerate(fast)
    ids_BT, mask_BT = make_batch(library)
    mask_BT = mask_BT.bool()

    def run(encoder: nn.Module, bf16: bool) -> dict[str, Tensor]:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            hidden_LBTD = kernels.encode(encoder, ids_BT, mask_BT, head_input=HeadInput("all"))
        real_LRD = hidden_LBTD[:, mask_BT].float()
        torch.manual_seed(2)
        (real_LRD * torch.randn_like(real_LRD)).mean().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        return {"hidden": real_LRD.detach(), **gradients}

    exact, ours = run(library, bf16=False), run(fast, bf16)
    theirs = run(library, bf16)
    assert ours.keys() == exact.keys()
    for name, tensor in ours.items():
        if bf16 and not name.endswith("key.bias"):  # the gradient of the key bias is zero in exact arithmetic
            assert distance(tensor, exact[name]) < 2 * distance(theirs[name], exact[name]) + 0.01, name
        elif not bf16:
            torch.testing.assert_close(tensor, exact[name], atol=1e-6, rtol=1e-3, msg=name)


def test_last_of_all_hidden_states_equals_the_usual_output() -> None:
    """With the same dropout masks, the last hidden states equal the output of an ordinary pass."""
    encoder = make_encoder("bert", hidden_dropout_prob=0.2).train()
    kernels.accelerate(encoder)
    ids_BT, mask_BT = make_batch(encoder)
    last = []
    for all_layers in (False, True):
        torch.manual_seed(3)
        hidden = kernels.encode(encoder, ids_BT, mask_BT.bool(), head_input=HeadInput("all" if all_layers else "last"))
        last.append(hidden[-1] if all_layers else hidden)
    assert torch.equal(*last)


def test_encoder_without_hidden_states_is_rejected() -> None:
    class Silent(nn.Module):
        config = SimpleNamespace(model_type="silent", hidden_size=8)

        def __init__(self, states: Any) -> None:
            super().__init__()
            self.table, self.states = nn.Embedding(9, 8), states

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: Tensor, **settings: Any) -> Any:
            return SimpleNamespace(hidden_states=self.states)

    refused = "^backbone=x: Silent cannot be used with a head that reads several layers: "
    with pytest.raises(UserError, match=rf"{refused}it does not return hidden states \(TypeError"):
        count_hidden_states("x", Silent(None), 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"{refused}its hidden states have shape \(2, 1, 2, 8\)"):
        count_hidden_states("x", Silent([torch.zeros(1, 2, 8)] * 2), 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"{refused}its hidden states are not finite"):
        count_hidden_states("x", Silent([torch.full((3, 24, 8), torch.nan)]), 0)  # type: ignore[arg-type]


# Runs.


RUNS = {
    "plain": (),
    "library layers": ("backbone.fast=false",),
    "bf16": ("precision=bf16",),
    "windows": ("data.truncation=windows", "max_length=24", "trainer.micro_batch_size=5"),
    "lora": ("backbone.lora_rank=2",),
    "checkpointing": ("backbone.gradient_checkpointing=true",),
    "ema": ("trainer.ema_decay=0.9", "loss.r_drop=0.5", "backbone.attention_dropout=0.1"),
    "partly frozen": ("backbone.freeze=1",),
    "frozen": ("backbone.freeze=true",),
}


@pytest.mark.parametrize("kind", RUNS)
def test_training(kind: str, tmp_path: Path) -> None:
    """The layer weights change in training, and the losses do not depend on the implementation."""
    settings = (*LAYERS, "backbone.dropout=0", "lr=1e-2", *RUNS[kind])
    trainer = make(tmp_path, *settings)
    before = trainer.model.head.layer_weights.detach().clone()  # type: ignore[union-attr, operator]
    losses = train_epoch(trainer)
    assert all(np.isfinite(losses)) and not torch.equal(trainer.model.head.layer_weights, before)  # type: ignore[arg-type]
    if kind in ("plain", "library layers", "checkpointing"):
        reference = train_epoch(make(tmp_path / "reference", *LAYERS, "backbone.dropout=0", "lr=1e-2"))
        assert losses == pytest.approx(reference, abs=1e-4)
    trainer.evaluation_model.sync()
    assert trainer.evaluator.scores("validation", trainer.batches.validation) is not None


@pytest.mark.slow
def test_compiled_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = lru_cache(partial(torch.compile, dynamic=True, backend="eager"))  # without generating code
    monkeypatch.setattr(torch_compile, "compiled", compiled)
    settings = (*LAYERS, "backbone.dropout=0", "backbone.fast=false", "data.train_limit=17", "batch_size=4")
    plain = train_epoch(make(tmp_path / "a", *settings))
    assert train_epoch(make(tmp_path / "b", *settings, "compile=true")) == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("truncation", ["head", "windows"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_from_the_cache_gives_the_same_bits(precision: str, truncation: str, tmp_path: Path) -> None:
    probabilities = []
    for cache in ("true", "false"):
        settings = (*LAYERS, "backbone.freeze=true", f"precision={precision}", f"data.truncation={truncation}")
        trainer = make(
            tmp_path / cache, *settings, "max_length=24", f"backbone.cache={cache}", f"data.cache_dir={tmp_path}"
        )
        batch = next(iter(trainer.batches.validation))
        assert (batch.features is not None) == (cache == "true")
        probabilities.append(predict_probabilities(trainer.model, trainer.batches.validation, trainer.hardware))
    assert np.array_equal(*probabilities)


def test_all_layers_and_last_layer_have_separate_cache_entries(tmp_path: Path) -> None:
    """Check the sizes of all entries, and that the error for the cache limit names the number of hidden states."""
    shared = ("backbone.freeze=true", f"data.cache_dir={tmp_path}")

    def sizes() -> dict[str, int]:
        return {path.parent.name: path.stat().st_size for path in tmp_path.glob(f"features/*/{features.VECTORS}")}

    make(tmp_path / "last", *shared, "head=mean")
    of_last = sizes()
    with pytest.raises(
        UserError,
        match=r"output \(3 hidden states per token\) needs \d\.\d+ MB, but .* its limit is backbone\.cache_gb=",
    ):
        make(tmp_path / "small", *shared, *LAYERS, f"backbone.cache_gb={(4 * sum(of_last.values()) - 1) / 1e9!r}")
    assert sizes() == of_last
    trainer = make(tmp_path / "all", *shared, *LAYERS, f"backbone.cache_gb={4 * sum(of_last.values()) / 1e9!r}")
    of_all = {name: size for name, size in sizes().items() if name not in of_last}
    assert sorted(of_all.values()) == [3 * size for size in sorted(of_last.values())]
    batch = next(trainer.batches.train.epoch(0))
    assert batch.features is not None and batch.features.shape == (3, *batch.mask_BT.shape, 64)
    assert not batch.features[:, ~batch.mask_BT].any()
    part = batch.split(5)[1]
    width = part.mask_BT.shape[1]
    assert part.features is not None and torch.equal(part.features, batch.features[:, 5:10, :width])


def test_constructor_must_accept_num_hidden_states(tmp_path: Path) -> None:
    message = "head._target_=layered.WithoutNumberHead sets reads_all_layers, so its constructor must accept num_hidden"
    with pytest.raises(UserError, match=message):
        make(tmp_path, *LAYERS, "head._target_=layered.WithoutNumberHead")


def test_first_token_of_causal_encoder_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    from transformers import GPT2Config, GPT2Model

    make_folder(folder, "roberta")  # provides the tokenizer
    GPT2Model(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=128)).save_pretrained(folder)
    chosen = (f"backbone.path={folder}", "backbone=bert-base", "head=mean", "head.name=x")
    with pytest.raises(UserError, match=r"head=x reads only the first token\. .* attends to no other token"):
        make(tmp_path / "run", *chosen, "plugins=[layered]", "head._target_=layered.FirstTokensHead")


@pytest.mark.slow
def test_run_with_a_plugin_head(tmp_path: Path, launch: Launch) -> None:
    """Train a run, and evaluate it again."""
    launch(tmp_path, "train", *TINY, "+plugins=[layered]", *LAYERS, "epochs=1", **PLUGINS)
    (run,) = (tmp_path / "runs").glob("default/layers-s0-*")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done" and result["head"] == "layers" and result["latency_ms"]["p50"] > 0
    launch(tmp_path, "evaluate", str(run), "--plugins", "layered", **PLUGINS)
