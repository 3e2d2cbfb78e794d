"""Tests that need a GPU; skipped without one."""

import json
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from support.encoders import distance, make_batch
from support.encoders import make as make_encoder
from support.hardware import needs_cuda
from support.heads import MAKERS
from support.runs import TINY, Launch
from support.trainers import make, points, train_epoch, weights

from imdbcls import kernels
from imdbcls.kernels import unpadded
from imdbcls.models.classifier import Classifier, copy_of
from imdbcls.models.inference import predict_probabilities
from imdbcls.runtime.device import peak_memory_mb, reset_peak_memory, set_determinism, set_float32_products
from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import Tracker, Trackers
from imdbcls.training.trainer import Trainer

pytestmark = needs_cuda

HEADS = ("cls", "weight_avg", "lstm", "transformer", "attention", "mean", "max")
BF16 = ("device=cuda", "precision=bf16", "backbone.dropout=0.1")


def classifier(name: str, model_type: str = "roberta") -> Classifier:
    """Build a small encoder with a head. Every call gives the same weights."""
    encoder = make_encoder(model_type)
    head = MAKERS[name](encoder.config.hidden_size)
    return Classifier(encoder, head).eval()


def make_inputs(model: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
    ids_BT, mask_BT = make_batch(model.encoder)
    return ids_BT, mask_BT.bool()


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_unpadded_rows_are_as_close_to_float32_as_padded_rows(model_type: str) -> None:
    model = make_encoder(model_type).cuda()
    ids_BT, mask_BT = (tensor.cuda() for tensor in make_batch(model))
    mask_BT = mask_BT.bool()

    def run(bf16: bool, compact: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            assert not compact or unpadded.applies(ids_BT.device)
            model.is_unpadded = compact
            hidden_BTH = kernels.encode(model, ids_BT, mask_BT)
        hidden_RH = hidden_BTH[mask_BT].float()
        torch.manual_seed(2)
        (hidden_RH * torch.randn_like(hidden_RH)).mean().backward()
        return hidden_RH.detach(), model.get_input_embeddings().weight.grad.clone()

    exact, padded, compact = run(False, False), run(True, False), run(True, True)
    for ours, theirs, truth in zip(compact, padded, exact, strict=True):
        assert distance(ours, truth) < 2 * distance(theirs, truth) + 1e-3


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_first_token_only_is_as_close_to_float32_as_all_tokens(model_type: str) -> None:
    model = make_encoder(model_type).cuda()
    head = MAKERS["cls"](model.config.hidden_size).cuda().eval()
    ids_BT, mask_BT = (tensor.cuda() for tensor in make_batch(model))
    unpadded.enable(model)
    all_tokens = Classifier(model, head)
    first_only = Classifier(model, head, tokens="first")
    with torch.no_grad():
        exact_BC = all_tokens(ids_BT, mask_BT.bool())
        with torch.autocast("cuda", torch.bfloat16):
            assert first_only.encode(ids_BT, mask_BT.bool(), None).shape[1] == 1
            of_all_BC, of_first_BC = all_tokens(ids_BT, mask_BT.bool()), first_only(ids_BT, mask_BT.bool())
    assert distance(of_first_BC, exact_BC) < 2 * distance(of_all_BC, exact_BC) + 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_step_does_not_synchronize(name: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, *BF16)
    trainer.model.head = MAKERS[name](trainer.model.encoder.config.hidden_size).cuda()
    trainer.model.train()
    first, second = list(trainer.batches.train.epoch(0))[:2]
    trainer.step(first)  # loads libraries and allocates memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.fetch_metrics()
    assert len(trainer.meter.losses) == 2


@pytest.fixture
def deterministic() -> Iterator[str]:
    """Yield the setting for deterministic kernels. `make` enables them for the process; disable them afterwards."""
    yield "deterministic=true"
    set_determinism(False)


@pytest.mark.parametrize("head", HEADS)
def test_deterministic_gives_the_same_bits(head: str, tmp_path: Path, deterministic: str) -> None:
    losses = []
    for number in range(2):
        trainer = make(tmp_path / str(number), *BF16, f"head={head}", deterministic)
        losses.append(train_epoch(trainer))
    assert losses[0] == losses[1]


class Stop(Tracker):
    """A tracker that requests a stop after a step, as a signal does."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def log(self, point: Mapping[str, float | int]) -> None:
        if point["step"] == self.step:
            self.trainer.control.stop.signal_number = signal.SIGTERM


@pytest.mark.parametrize("options", [("head=cls",), ("head=lstm", "trainer.ema_decay=0.9")])
def test_a_resumed_run_gives_the_same_bits(options: tuple[str, ...], tmp_path: Path, deterministic: str) -> None:
    settings = (*BF16, *options, deterministic)
    undisturbed = make(tmp_path / "undisturbed", *settings)
    undisturbed.fit(Trackers())
    stopped = make(tmp_path / "stopped", *settings)
    with pytest.raises(Interrupted):
        stopped.fit(Stop(stopped, step=5))
    resumed = make(tmp_path / "stopped", *settings)
    assert resumed.resume() == 5
    resumed.fit(Trackers())
    expected, actual = weights(undisturbed.model), weights(resumed.model)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert points(tmp_path / "stopped", "train/loss") == points(tmp_path / "undisturbed", "train/loss")


@pytest.mark.parametrize("name", MAKERS)
def test_logits_and_gradients_in_float32_equal_those_on_the_cpu(name: str) -> None:
    set_float32_products("fp32")
    found = []
    for device in ("cpu", "cuda"):
        model = classifier(name).to(device)
        ids_BT, mask_BT = (tensor.to(device) for tensor in make_batch(model.encoder))
        logits_BC = model(ids_BT, mask_BT.bool())
        logits_BC.logsumexp(dim=1).sum().backward()
        found.append(
            (logits_BC.detach().cpu(), {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None})
        )
    (expected_BC, expected), (actual_BC, actual) = found
    torch.testing.assert_close(actual_BC, expected_BC, atol=1e-4, rtol=1e-4)
    assert actual.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert (actual[parameter] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5, parameter


@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
@pytest.mark.parametrize("name", MAKERS)
def test_logits_and_gradients_in_bf16_are_close_to_those_on_the_cpu(name: str, model_type: str) -> None:
    """The GPU computes unpadded rows. For `cls`, the last layer of RoBERTa computes only the first token."""
    exact, fast = classifier(name, model_type), classifier(name, model_type).cuda()
    unpadded.enable(fast.encoder)
    fast.tokens = "first" if name == "cls" else "all"
    ids_BT, mask_BT = make_batch(exact.encoder)
    expected_BC = exact(ids_BT, mask_BT.bool())
    with torch.autocast("cuda", torch.bfloat16):
        assert unpadded.applies(torch.device("cuda"))
        actual_BC = fast(ids_BT.cuda(), mask_BT.bool().cuda())
    assert distance(actual_BC.detach().cpu(), expected_BC.detach()) < 0.05
    for logits_BC in (expected_BC, actual_BC):
        logits_BC.logsumexp(dim=1).sum().backward()
    expected, actual = (
        torch.cat([p.grad.flatten().cpu() for n, p in model.named_parameters() if "key.bias" not in n])
        for model in (exact, fast)
    )
    assert distance(actual, expected) < 0.1


@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
def test_unpadded_rows_need_less_memory(model_type: str) -> None:
    model = make_encoder(model_type).cuda().train()
    ids_BT, mask_BT = (tensor.cuda() for tensor in make_batch(model, (128,) + 63 * (8,)))
    peaks = []
    for compact in (True, False):
        model.is_unpadded = compact
        torch.cuda.empty_cache()
        reset_peak_memory(ids_BT.device)
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16):
            kernels.encode(model, ids_BT, mask_BT.bool()).sum().backward()
        peaks.append(peak_memory_mb(ids_BT.device) - before / 1e6)
        model.zero_grad()
    assert peaks[0] < peaks[1] / 2, "fewer than a tenth of the rows are real tokens"


@pytest.mark.parametrize("head", ["cls", "weight_avg", "lstm"])
def test_compiled_steps_equal_plain_steps(head: str, tmp_path: Path) -> None:
    settings = ("device=cuda", "precision=bf16", "backbone.dropout=0", "head.dropout=0", f"head={head}")
    torch._dynamo.reset()
    plain, compiled = (make(tmp_path / name, *settings, f"compile={name}") for name in ("false", "true"))
    assert train_epoch(compiled) == pytest.approx(train_epoch(plain), abs=1e-2)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1


@pytest.mark.parametrize("options", [(), ("data.truncation=windows", "data.max_windows=2", "max_length=16")])
def test_evaluation_equals_that_on_the_cpu_and_gives_the_same_bits_twice(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    expected, *actual = (
        predict_probabilities(trainer.model, trainer.batches.validation, trainer.hardware)
        for trainer in (make(tmp_path / device, f"device={device}", *options) for device in ("cpu", "cuda", "cuda"))
    )
    assert actual[0] == pytest.approx(expected, abs=1e-4)
    assert (actual[0] == actual[1]).all()


def test_copied_batches_are_not_overwritten(tmp_path: Path) -> None:
    """A copy is asynchronous, so its pinned source must stay unchanged until the copy is done."""
    trainer = make(tmp_path)
    batches = list(trainer.batches.train.epoch(0)) * 20
    torch.cuda._sleep(100_000_000)  # clock cycles for which all copies wait
    copies = [batch.to(torch.device("cuda")) for batch in batches]
    for batch, copied in zip(batches, copies, strict=True):
        assert torch.equal(copied.input_ids_BT.cpu(), batch.input_ids_BT)
        assert torch.equal(copied.mask_BT.cpu(), batch.mask_BT)


def test_copied_lstm_keeps_its_weights_in_one_block() -> None:
    model = copy_of(classifier("lstm").cuda())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns if it has to copy the weights in each pass
        model(*(tensor.cuda() for tensor in make_inputs(model)))


@pytest.mark.slow
def test_train_command(tmp_path: Path, launch: Launch) -> None:
    launch(tmp_path, "train", *TINY, "device=cuda", "tracker=none", "head=lstm")
    (path,) = tmp_path.glob("runs/*/*/result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "done" and result["environment"]["hardware"].endswith("bf16")
    assert result["peak_memory_mb"] > 0 and result["documents_per_second"] > 0
