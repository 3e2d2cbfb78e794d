"""Tests for the training loop with the tiny encoder: it learns, is reproducible to the bit, and obeys its settings."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pyarrow import parquet
from support.runs import TINY, Launch
from support.trainers import NO_DROPOUT, PLAIN_SGD, Poison, contents, distance, make, points, train_epoch, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from imdbcls.data.batch import Batch
from imdbcls.data.batches import EvalBatches
from imdbcls.tracking import Trackers
from imdbcls.training import checkpoint, optim
from imdbcls.training.meter import NonFiniteError


@pytest.mark.slow
def test_overfits_one_batch(tmp_path: Path) -> None:
    overrides = ("head=attention", "data.train_limit=16", "lr=3e-3", "schedule=constant", "epochs=40")
    trainer = make(tmp_path, *overrides)
    trainer.fit(Trackers())
    losses = points(tmp_path, "train/loss")
    assert len(losses) == 40
    assert losses[0] == pytest.approx(math.log(2), abs=0.1), "an untrained model predicts at chance level"
    assert losses[-1] < 0.01


@pytest.mark.slow
def test_same_seed_gives_the_same_bits(launch: Launch, finished: Path, tmp_path: Path) -> None:
    """The two runs have separate processes and studies, dropout, and the default precision of this machine."""
    launch(tmp_path, "train", "head=lstm", *TINY, "tracker=none", "study=again", fresh=True)
    (again,) = (tmp_path / "runs" / "again").iterdir()
    assert again.name == finished.name
    for key in ("train/loss", "train/grad_norm", "train/lr", "val/loss", "val/accuracy"):
        first = points(finished, key)
        assert first == points(again, key) and len(first) >= 2
    for split in ("validation", "test"):
        tables = [parquet.read_table(run / "predictions" / f"{split}.parquet") for run in (finished, again)]
        assert tables[0].equals(tables[1])
    results = [json.loads((run / "result.json").read_text()) for run in (finished, again)]
    different = {key for key in results[0] if results[0][key] != results[1][key]}
    measured = {"latency_ms", "train_seconds", "documents_per_second", "tokens_per_second", "peak_memory_mb"}
    assert "study" in different and different <= measured | {"study", "finished_at", "command"}


def test_seed_and_order_seed_are_independent(tmp_path: Path) -> None:
    def first_batch_and_weights(number: int, *seeds: str) -> tuple[Tensor, Tensor]:
        trainer = make(tmp_path / str(number), *seeds)
        return next(trainer.batches.train.epoch(0)).input_ids_BT, trainer.model.head.output.weight

    batch, weight = first_batch_and_weights(0, "seed=0")
    other_batch, other_weight = first_batch_and_weights(1, "seed=1")
    assert batch.shape != other_batch.shape or not torch.equal(batch, other_batch)
    assert not torch.equal(weight, other_weight)
    same_batch, other_weight = first_batch_and_weights(2, "seed=1", "data.order_seed=0")
    assert torch.equal(batch, same_batch) and not torch.equal(weight, other_weight)


def test_dropout_depends_only_on_seed_and_step(tmp_path: Path) -> None:
    losses = []
    for number in range(2):
        trainer = make(tmp_path / str(number), "head=cls", "backbone.dropout=0.3")
        trainer.model.train()
        torch.rand(number * 100)  # earlier random numbers have no effect
        losses.append([trainer.step(batch)[0].item() for batch in trainer.batches.train.epoch(0)])
    assert losses[0] == losses[1]
    trainer.state.step = 7
    batch = next(trainer.batches.train.epoch(0))
    repeated = make(tmp_path / "other", "head=cls", "backbone.dropout=0.3")
    repeated.model.load_state_dict(trainer.model.state_dict())
    repeated.model.train()
    assert trainer.step(batch)[0] != repeated.step(batch)[0], "another step must have other dropout masks"


@pytest.mark.parametrize("micro_batch_size", [1, 5, 8])
def test_accumulation_equals_larger_batch(micro_batch_size: int, tmp_path: Path) -> None:
    """The last micro-batch may be smaller (5 + 5 + 5 + 1), and so may the last batch (40 = 16 + 16 + 8)."""
    overrides = (*NO_DROPOUT, *PLAIN_SGD, "data.train_limit=40")
    whole = make(tmp_path / "whole", *overrides)
    parts = make(tmp_path / "parts", *overrides, f"trainer.micro_batch_size={micro_batch_size}")
    before = weights(whole.model)
    assert distance(before, weights(parts.model)) == 0
    losses = train_epoch(whole)
    assert sorted(len(batch) for batch in whole.batches.train.epoch(0)) == [8, 16, 16]
    assert losses == pytest.approx(train_epoch(parts), abs=1e-5)
    assert distance(before, weights(whole.model)) > 1e-2
    assert distance(weights(whole.model), weights(parts.model)) < 1e-5


def test_step_uses_the_gradient_of_the_mean_loss(tmp_path: Path) -> None:
    trainer = make(tmp_path, *NO_DROPOUT, *PLAIN_SGD, "trainer.max_grad_norm=null", "trainer.micro_batch_size=7")
    batch = next(trainer.batches.train.epoch(0))
    before = weights(trainer.model)
    expected = cross_entropy(trainer.model.train()(batch.input_ids_BT, batch.mask_BT), batch.labels_B)
    named = dict(trainer.model.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(expected, list(named.values()), allow_unused=True), strict=True))
    loss, grad_norm = trainer.step(batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    norm = torch.stack([gradient.norm() for gradient in gradients.values() if gradient is not None]).norm()
    assert grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    for name, after in weights(trainer.model).items():
        gradient = gradients[name]
        step = torch.zeros_like(after) if gradient is None else gradient
        torch.testing.assert_close(before[name] - after, step, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    trainer = make(tmp_path, *NO_DROPOUT, *PLAIN_SGD, "trainer.max_grad_norm=0.01")
    before = weights(trainer.model)
    _, grad_norm = trainer.step(next(trainer.batches.train.epoch(0)))
    assert grad_norm > 0.1, "the returned norm must be the norm before clipping"
    after = weights(trainer.model)
    taken = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm()
    assert taken.item() == pytest.approx(0.01, rel=1e-3)


# Learning rates.


def rates(make_schedule: Any, num_steps: int, num_warmup_steps: int, **options: Any) -> list[float]:
    """Return the learning rate of each step, for a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule = make_schedule(optimizer, num_steps=num_steps, num_warmup_steps=num_warmup_steps, **options)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def cosine_between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def test_linear_schedule() -> None:
    assert rates(optim.linear, 6, 2) == pytest.approx([0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4])
    assert rates(optim.linear, 4, 0) == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4])


def test_cosine_schedule() -> None:
    half = math.sqrt(1 / 2)
    assert rates(optim.cosine, 6, 2) == pytest.approx([0, 1 / 2, 1, (1 + half) / 2, 1 / 2, (1 - half) / 2])
    assert rates(optim.cosine, 4, 0) == pytest.approx([1, (1 + half) / 2, 1 / 2, (1 - half) / 2])


def test_constant_schedule() -> None:
    assert rates(optim.constant, 5, 2) == pytest.approx([0, 1 / 2, 1, 1, 1])
    assert rates(optim.constant, 3, 0) == [1, 1, 1]


ONECYCLE = {"div_factor": 25.0, "final_div_factor": 1e4, "cycle_momentum": True}


def test_onecycle_schedule() -> None:
    first, last = 1 / 25, 1 / 25 / 1e4
    rising = [cosine_between(first, 1, step / 2) for step in range(3)]
    falling = [cosine_between(1, last, step / 7) for step in range(1, 8)]
    assert rates(optim.onecycle, 10, 3, **ONECYCLE) == pytest.approx(rising + falling)
    assert rising[2] == 1 and falling[-1] == pytest.approx(4e-6)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_onecycle_with_few_steps_is_constant(num_steps: int) -> None:
    """OneCycleLR alone would train the only step with the final learning rate, which is almost zero."""
    for num_warmup_steps in range(num_steps + 1):
        assert rates(optim.onecycle, num_steps, num_warmup_steps, **ONECYCLE) == [1] * num_steps


@pytest.mark.parametrize("num_steps", [3, 4, 10])
def test_onecycle_with_extreme_warmup(num_steps: int) -> None:
    """With no warmup, one warmup step, or only warmup steps, OneCycleLR alone would divide by zero."""
    for num_warmup_steps in range(num_steps + 1):
        found = rates(optim.onecycle, num_steps, num_warmup_steps, **ONECYCLE)
        assert all(0 < rate <= 1 for rate in found)
        assert found[-1] == pytest.approx(4e-6)
        if num_warmup_steps > 0:
            assert max(found) == 1


def test_warmup_is_a_fraction_of_all_steps_and_the_used_rate_is_logged(tmp_path: Path) -> None:
    trainer = make(tmp_path, "lr=0.01", "warmup=0.25", "epochs=2", "data.train_limit=64")
    assert trainer.num_steps == 8
    used = []
    for batch in trainer.batches.train.epoch(0):
        used.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.step(batch)
    assert used == pytest.approx([0, 0.005, 0.01, 0.01 * 5 / 6])


# The optimizers.


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_are_fused(name: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, f"optimizer={name}")
    assert all(group["fused"] for group in trainer.optimizer.param_groups)
    batches = list(trainer.batches.train.epoch(0))
    before = weights(trainer.model)
    for batch in batches[:2]:
        trainer.step(batch)
    assert distance(before, weights(trainer.model)) > 0


@pytest.mark.parametrize("head", ["cls", "weight_avg", "lstm", "transformer"])
def test_biases_and_norms_do_not_decay(head: str, tmp_path: Path) -> None:
    """With zero gradients, only decay changes a weight, by lr · weight_decay, and only in the group with decay."""
    trainer = make(tmp_path, f"head={head}", "lr=0.5", "optimizer.weight_decay=0.5", "schedule=constant", "warmup=0")
    for parameter in trainer.model.parameters():
        parameter.data.uniform_(1, 2)  # decay would not change biases of zero
        parameter.grad = torch.zeros_like(parameter)
    before = weights(trainer.model)
    trainer.optimizer.step()
    norms = [name for name, module in trainer.model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert norms
    kept, decayed = set(), set()
    for name, after in weights(trainer.model).items():
        ratio = (after / before[name]).mean().item()
        (kept if ratio == 1 else decayed).add(name)
        assert ratio == 1 or ratio == pytest.approx(0.75)
    exempt = {name for name in before if "bias" in name or name.rpartition(".")[0] in norms}
    exempt |= {name for name in before if name.endswith("position_weights")}
    assert kept == exempt
    assert decayed == before.keys() - exempt


# NaN, the best weights, and memory.


def test_nan_loss_stops_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    trainer = make(tmp_path, "lr=0.01", "schedule=constant", "warmup=0", "epochs=3", "data.train_limit=64")
    poison = Poison(trainer, step=6)  # the second step of the second epoch
    with pytest.raises(NonFiniteError, match=r"^Step 7 of 12, learning rate 0\.01: the loss is nan"):
        trainer.fit(poison)
    assert "model.safetensors" in poison.best
    assert contents(tmp_path / "checkpoints" / "best") == poison.best
    for name in ("best", "last"):
        saved = checkpoint.load(tmp_path / "checkpoints" / name, trainer.model.state_dict()).tensors["model"]
        assert all(tensor.isfinite().all() for tensor in saved.values())


def test_nan_gradient_does_not_change_weights(tmp_path: Path) -> None:
    trainer = make(tmp_path, *NO_DROPOUT, *PLAIN_SGD)
    trainer.model.head.output.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer.model)
    with pytest.raises(NonFiniteError, match=r"the loss is 0\.\d+ and the gradient norm (inf|nan)"):
        trainer.step(next(trainer.batches.train.epoch(0)))
    assert distance(before, weights(trainer.model)) == 0


def test_much_too_high_learning_rate_raises(tmp_path: Path) -> None:
    """No NaN is injected here: the weights overflow."""
    trainer = make(tmp_path, "optimizer=sgd", "lr=1e30", "schedule=constant", "warmup=0", "trainer.max_grad_norm=null")
    with pytest.raises(NonFiniteError, match=r"^Step [2-8] of 8, learning rate 1e\+30"):
        trainer.fit(Trackers())
    assert not (tmp_path / "checkpoints" / "best").exists()


@pytest.mark.parametrize("max_grad_norm", ["1", "null"])
def test_overflow_in_the_last_step_of_an_epoch_raises(max_grad_norm: str, tmp_path: Path) -> None:
    """No training step follows that could find NaN: the evaluation must find it."""
    choices = ("optimizer=sgd", "lr=1e30", "warmup=0", f"trainer.max_grad_norm={max_grad_norm}", "epochs=1")
    trainer = make(tmp_path, *choices, "data.train_limit=8", "batch_size=8")
    assert trainer.num_steps == 1
    with pytest.raises(NonFiniteError, match=r"^The model's output for the validation split is NaN or infinite"):
        trainer.fit(Trackers())
    assert not (tmp_path / "checkpoints" / "best").exists()


def test_best_validation_epoch_is_kept(tmp_path: Path) -> None:
    trainer = make(tmp_path, "head=attention", "lr=0.05", "schedule=constant", "epochs=6")
    trainer.fit(Trackers())
    accuracies, losses = points(tmp_path, "val/accuracy"), points(tmp_path, "val/loss")
    assert len(accuracies) == 6
    best = max(range(6), key=lambda epoch: (accuracies[epoch], -losses[epoch]))
    assert trainer.state.best_epoch == best + 1 < 6, "this test needs a run whose last epoch is not the best"
    saved = checkpoint.load(tmp_path / "checkpoints" / "best", trainer.model.state_dict())
    assert saved.state["epoch"] == best + 1 and saved.state["val/accuracy"] == accuracies[best]
    assert distance(trainer.model.state_dict(), saved.tensors["model"]) == 0
    scored = trainer.evaluator.scores("validation", trainer.batches.validation)
    assert (scored.argmax(axis=1) == trainer.batches.validation.labels).mean() == pytest.approx(accuracies[best])


def test_memory_that_ran_out_halves_the_rows_of_a_batch_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A micro-batch has a number of windows, so the windows of the batch count, not its documents."""
    trainer = make(tmp_path, "data.truncation=windows", "max_length=16", "batch_size=4")
    batch = next(iter(trainer.batches.train.epoch(0)))
    trainer.state.micro_batch_size = 16  # as in a larger batch, before a last batch of four documents
    assert len(batch) == 4 and len(batch.mask_BT) >= 16
    accumulate, sizes = trainer.accumulate_gradient, []

    def first_fails(batch: Batch) -> torch.Tensor | None:
        sizes.append(trainer.state.micro_batch_size)
        return None if len(sizes) == 1 else accumulate(batch)

    monkeypatch.setattr(trainer, "accumulate_gradient", first_fails)
    trainer.step(batch)
    assert sizes == [16, 8]


def test_training_does_not_read_the_test_split(tmp_path: Path) -> None:
    """Only a run with `score_test_each_epoch` reads the test split before the end."""
    usual = make(tmp_path / "usual")
    test, usual.batches = usual.batches.test, replace(usual.batches, test=cast(EvalBatches, None))
    usual.fit(Trackers())
    assert points(tmp_path / "usual", "test/accuracy") == []
    usual.batches = replace(usual.batches, test=test)
    assert len(usual.final_probabilities()["test"]) == test.num_documents == 40
    watched = make(tmp_path / "watched", "trainer.score_test_each_epoch=true")
    watched.fit(Trackers())
    assert len(points(tmp_path / "watched", "test/accuracy")) == 2


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_evaluation_halves_the_batch_if_memory_runs_out(
    truncation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make(tmp_path, f"data.truncation={truncation}", "eval_batch_size=32")
    whole = trainer.evaluator.scores("test", trainer.batches.validation)
    forward, seen = trainer.model.forward, []

    def forward_of_few(input_ids_BT: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if len(input_ids_BT) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
        seen.append(len(input_ids_BT))
        return forward(input_ids_BT, *arguments, **named)

    monkeypatch.setattr(trainer.model, "forward", forward_of_few)
    halved = trainer.evaluator.scores("test", trainer.batches.validation)
    assert len(seen) > 2 and "evaluation: not enough memory for" in capsys.readouterr().err
    np.testing.assert_allclose(halved, whole, rtol=0, atol=1e-5)
