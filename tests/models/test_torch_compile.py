"""Tests for `compile=true`: no new graphs for new sizes, the same numbers and names, errors if it is unavailable."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.encoders import make as make_encoder
from support.encoders import make_batch
from support.heads import MAKERS
from support.trainers import make
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from imdbcls.errors import UserError
from imdbcls.kernels import unpadded
from imdbcls.kernels.head_input import HeadInput
from imdbcls.models import classifier, torch_compile
from imdbcls.runtime.padding import token_indices

SETTINGS = ("max_length=128", "backbone.fast=false", "backbone.dropout=0.1", "batch_size=4", "data.train_limit=17")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Count the graphs and run them without code generation."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    counted = lru_cache(lambda function: torch.compile(function, dynamic=True, backend=counter))
    monkeypatch.setattr(torch_compile, "compiled", counted)
    return counter


@pytest.mark.slow
def test_new_lengths_do_not_compile_again(tmp_path: Path, counter: CompileCounterWithBackend) -> None:
    plain = make(tmp_path / "plain", *SETTINGS)
    assert counter.frame_count == 0
    trainer = make(tmp_path / "compiled", *SETTINGS, "compile=true")
    graphs = counter.frame_count
    assert 1 <= graphs <= 2 and counter.op_count > 20
    assert list(trainer.model.state_dict()) == list(plain.model.state_dict())
    assert all(parameter.grad is None for parameter in trainer.model.parameters()), (
        "the warm-up must not leave gradients"
    )
    sizes = set()
    for batch in trainer.batches.train.epoch(0):
        sizes.add((len(batch), batch.mask_BT.shape[1]))
        assert trainer.step(batch)[0].item() == pytest.approx(plain.step(batch)[0].item(), abs=1e-5)
    assert len({width for _, width in sizes}) > 1 and {rows for rows, _ in sizes} == {1, 4}
    trainer.evaluator.scores("validation", trainer.batches.validation)
    assert counter.frame_count == graphs


@pytest.mark.parametrize(("micro_batch_size", "num_rows"), [("1", 2), ("3", 3), ("null", 4)])
def test_warm_up_is_not_larger_than_a_micro_batch(
    micro_batch_size: str, num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size of 1 would be a constant in the graph, so the warm-up has at least two rows."""
    shapes = []

    def record(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def encode(encoder: nn.Module, input_ids_BT: torch.Tensor, *inputs: Any) -> torch.Tensor:
            shapes.append(tuple(input_ids_BT.shape))
            return function(encoder, input_ids_BT, *inputs)

        return encode

    monkeypatch.setattr(torch_compile, "compiled", record)
    make(tmp_path, *SETTINGS, "compile=true", f"trainer.micro_batch_size={micro_batch_size}")
    assert shapes == [(num_rows, 64), (num_rows, 128)]


@pytest.mark.slow
def test_warm_up_compiles_the_graph_for_pairs(tmp_path: Path, counter: CompileCounterWithBackend) -> None:
    path = tmp_path / "pairs.csv"
    rows = [f"{'a word ' * (1 + row % 5)}{row},another {row},{'yes' if row % 2 else 'no'}" for row in range(40)]
    path.write_text("\n".join(["premise,hypothesis,label", *rows]))
    columns = ("data.text_column=premise", "data.pair_column=hypothesis")
    trainer = make(tmp_path, *SETTINGS, "backbone=minilm", "data=files", f"data.train={path}", *columns, "compile=true")
    graphs = counter.frame_count
    batches = list(trainer.batches.train.epoch(0))
    assert all(batch.token_types_BT is not None for batch in batches)
    for batch in batches:
        trainer.step(batch)
    assert counter.frame_count == graphs >= 1


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
def test_unpadded_layers_are_compiled(
    model_type: str, counter: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the GPU's implementation on the CPU. RoBERTa's last layer computes only the first token."""
    monkeypatch.setattr(unpadded, "applies", lambda device: True)
    encoder = make_encoder(model_type, **({"hidden_dropout_prob": 0.0} if model_type == "roberta" else {}))
    unpadded.enable(encoder)
    model = classifier.Classifier(encoder, MAKERS["cls"](96), tokens="first").train()
    model.head.eval()
    batches = [make_batch(encoder, lengths) for lengths in ((9, 30), (64, 5, 37), (12, 50, 2, 7))]
    plain = [model(ids_BT, mask_BT.bool()) for ids_BT, mask_BT in batches]
    model.compile_encode = torch_compile.compiled
    for (ids_BT, mask_BT), expected_BC in zip(batches, plain, strict=True):
        logits_BC = model(ids_BT, mask_BT.bool())
        torch.testing.assert_close(logits_BC, expected_BC, atol=1e-5, rtol=1e-5)
        logits_BC.sum().backward()
    assert counter.frame_count > 0


@pytest.mark.slow
@pytest.mark.parametrize("head_input", [HeadInput("last", "first"), HeadInput(2, "first")])
def test_first_token_layers_are_compiled_once(head_input: HeadInput, counter: CompileCounterWithBackend) -> None:
    """Use the meta device: as on CUDA, and unlike on the CPU, attention over unpadded rows reads no values."""
    encoder = make_encoder("roberta").to("meta").train()
    encode = torch_compile.compiled(unpadded.encode)
    torch._dynamo.utils.counters.clear()
    for lengths in ((2, 16, 32), (2, 32, 64), (9, 30), (64, 5, 37, 8), (2, 8)):
        ids_BT, mask_BT = make_batch(encoder, lengths)
        mask_BT = mask_BT.bool()
        inputs = (each.to("meta") for each in (ids_BT, mask_BT, token_indices(mask_BT)))
        encode(encoder, *inputs, head_input, None).sum().backward()
    assert counter.frame_count == 1 and not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((), r"compile=true and backbone\.fast=true cannot be combined on the CPU"),
        (("backbone.fast=false",), r"On the CPU, compile=true needs a C\+\+ compiler: .*CXX"),
    ],
)
def test_unavailable_compilation_raises_user_error(
    settings: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UserError, match=f"^{message}"):
        make(tmp_path, "compile=true", *settings)
