"""Tests for weight averaging, LoRA adapters, early stopping and gradient checkpointing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.processes import EVERY_STEP, TINY, fingerprint, kill_at, run, run_folder
from support.small_models import make_model
from support.trainers import DESCENT, distance, make, points, train_epoch, weights
from torch import Tensor, nn

from imdbcls.errors import UserError
from imdbcls.heads.mean import MeanHead
from imdbcls.models import lora
from imdbcls.models.backbone import Backbone
from imdbcls.models.classifier import Classifier, copy_of, count_parameters
from imdbcls.models.layers import recompute_activations
from imdbcls.reevaluation import evaluate
from imdbcls.tracking import Trackers
from imdbcls.training.evaluation_model import EvaluationModel

FAMILIES = ("bert", "roberta", "modernbert", "deberta-v2")


def small_classifier(family: str) -> Classifier:
    return Classifier(make_model(family), MeanHead(hidden_size=64, num_labels=2))


def some_tokens() -> tuple[Tensor, Tensor]:
    """Return three documents of 9, 9 and 5 tokens, without special tokens of any family."""
    ids_BT = torch.randint(10, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones(3, 9, dtype=torch.bool)
    mask_BT[2, 5:] = False
    return ids_BT, mask_BT


# Averaged weights.


def test_average_is_exponential_over_the_steps(tmp_path: Path) -> None:
    decay = 0.8
    trainer = make(tmp_path, f"trainer.ema_decay={decay}", "lr=1e-2", "warmup=0", "data.train_limit=64")
    trainer.model.train()
    history = []
    for batch in trainer.batches.train.epoch(0):
        trainer.step(batch)
        trainer.state.step += 1
        history.append(weights(trainer.model))
    shares = [decay ** (len(history) - step) for step in range(1, len(history) + 1)]
    averaged = trainer.evaluation_model.average_state()
    assert averaged.keys() == history[0].keys() and len(history) == 4
    for name, average in averaged.items():
        expected = sum(share * step[name] for share, step in zip(shares, history, strict=True)) / sum(shares)
        torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-6)
    assert distance(averaged, history[-1]) > 1e-3


def test_stochastic_weight_average_is_the_mean_of_the_last_steps(tmp_path: Path) -> None:
    """With 12 steps and swa_start=0.5, the average begins with the weights after step 7."""
    options = ("trainer.swa_start=0.5", "lr=1e-2", "warmup=0", "schedule=constant", "epochs=3", "data.train_limit=64")
    trainer = make(tmp_path, *options)
    trainer.model.train()
    history = []
    for epoch in range(3):
        for batch in trainer.batches.train.epoch(epoch):
            trainer.step(batch)
            trainer.state.step += 1
            history.append(weights(trainer.model))
            if len(history) <= 7:
                assert distance(trainer.evaluation_model.average_state(), history[-1]) == 0
    averaged = trainer.evaluation_model.average_state()
    assert averaged.keys() == history[0].keys() and len(history) == 12
    for name, average in averaged.items():
        torch.testing.assert_close(average, sum(step[name] for step in history[6:]) / 6, rtol=1e-4, atol=1e-6)
    assert distance(averaged, history[-1]) > 1e-3


def test_average_after_one_step_equals_the_weights(tmp_path: Path) -> None:
    trainer = make(tmp_path, "trainer.ema_decay=0.999", "lr=1e-2", "warmup=0")
    trainer.step(next(trainer.batches.train.epoch(0)))
    assert distance(weights(trainer.model), weights(trainer.evaluation_model.model)) == 0


@pytest.mark.parametrize("average", ("trainer.ema_decay=0.9", "trainer.swa_start=0.3"))
def test_average_is_validated_and_saved_and_does_not_change_training(average: str, tmp_path: Path) -> None:
    options = ("lr=1e-2", "warmup=0", "epochs=2", "head=attention")
    plain = make(tmp_path / "plain", *options)
    plain.fit(Trackers())
    averaged = make(tmp_path / "averaged", *options, average)
    trained_best: list[Any] = []
    save_best = averaged.saver.save_best
    averaged.saver.save_best = lambda metrics: (trained_best.append(weights(averaged.model)), save_best(metrics))
    averaged.fit(Trackers())
    for key in ("train/loss", "train/grad_norm"):
        assert points(tmp_path / "plain", key) == points(tmp_path / "averaged", key)
    assert points(tmp_path / "plain", "val/loss") != points(tmp_path / "averaged", "val/loss")
    best = load_file(tmp_path / "averaged" / "checkpoints" / "best" / "model.safetensors")
    assert distance(weights(averaged.evaluation_model.model), best) == 0 < distance(trained_best[-1], best)
    scored = averaged.evaluator.scores("validation", averaged.batches.validation)
    epoch = averaged.state.best_epoch - 1
    accuracy = (scored.argmax(axis=1) == averaged.batches.validation.labels).mean()
    assert accuracy == points(tmp_path / "averaged", "val/accuracy")[epoch]


def test_average_shares_frozen_weights(tmp_path: Path) -> None:
    trainer = make(tmp_path, "trainer.ema_decay=0.9", "backbone.freeze=1")
    both = zip(trainer.model.named_parameters(), trainer.evaluation_model.model.parameters(), strict=True)
    shared = {name: own is averaged for (name, own), averaged in both}
    assert any(shared.values()) and not all(shared.values())
    assert shared == {name: not weight.requires_grad for name, weight in trainer.model.named_parameters()}


def test_without_average_or_adapters_there_is_one_model(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    assert trainer.evaluation_model.model is trainer.model and trainer.evaluation_model.average_state() == {}


# Adapters.


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_model_equals_adapted_model(family: str) -> None:
    model = small_classifier(family).eval()
    before = weights(model)
    tokens = some_tokens()
    with torch.no_grad():
        plain_BC = model(*tokens)
        adapted = lora.with_adapters(model, rank=4).eval()
        torch.testing.assert_close(adapted(*tokens), plain_BC, rtol=0, atol=1e-5)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or name.startswith("head."):
                weight.normal_(std=0.05)
        adapted_BC = adapted(*tokens)
        assert (adapted_BC - plain_BC).abs().max() > 1e-2
        assert torch.equal(model(*tokens), plain_BC), "the model does not change before the merge"
        for _ in range(2):  # merging twice gives the same result
            lora.merge(adapted, model)
            torch.testing.assert_close(model(*tokens), adapted_BC, rtol=1e-4, atol=1e-4)
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear <= changed and changed - linear == {"head.output.bias"}


def test_only_adapters_and_head_are_trained(tmp_path: Path) -> None:
    trainer = make(tmp_path, "backbone.lora_rank=3", "lr=1e-3", "warmup=0", "head=cls")
    trainable = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trainable)
    sizes = [(64, 64)] * 4 + [(64, 128)] * 2  # for each of the two layers
    in_adapters = 2 * sum(3 * (inside + outside) for inside, outside in sizes)
    assert count_parameters(trainer.model, trainable=True) == in_adapters + count_parameters(trainer.model.head)
    before = weights(trainer.model)
    train_epoch(trainer)
    after = weights(trainer.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trainable


def test_adapters_learn_and_are_evaluated(tmp_path: Path) -> None:
    """The head hardly changes, so only the adapters can lower the loss. The validation loss also changes."""
    options = (
        "backbone.lora_rank=8",
        "lr=1e-2",
        "optimizer.head_lr=1e-9",
        "schedule=constant",
        "epochs=12",
        "head=mean",
    )
    trainer = make(tmp_path, *options, "data.train_limit=16", "backbone.dropout=0")
    trainer.fit(Trackers())
    losses = points(tmp_path, "train/loss")
    assert losses[-1] < losses[0] - 0.1
    assert len(set(points(tmp_path, "val/loss"))) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    (
        ("backbone.lora_rank=4", "optimizer.head_lr=2"),
        ("trainer.ema_decay=0.9",),
        ("backbone.gradient_checkpointing=true",),
    ),
    ids=("adapters", "average", "recomputed"),
)
def test_run_folder_contains_a_plain_model_with_the_same_metrics(
    options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, *TINY, *options)
    folder = run_folder(tmp_path)
    best = load_file(folder / "checkpoints" / "best" / "model.safetensors")
    plain = make(tmp_path / "plain", *TINY).model
    assert {name: tensor.shape for name, tensor in best.items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    capfd.readouterr()
    for split in ("test", "validation"):
        evaluate(folder, split)
    assert capfd.readouterr().err.count("The metrics equal the recorded ones to the last digit.") == 2
    result = json.loads((folder / "result.json").read_text())
    assert result["parameters"] == count_parameters(plain)
    assert (result["trainable_parameters"] < result["parameters"]) == ("backbone.lora_rank=4" in options)


def test_missing_peft_raises_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"^backbone\.lora_rank needs the package peft, .*: pip install peft"):
        make(tmp_path, "backbone.lora_rank=4")


def test_adapters_can_be_averaged() -> None:
    """The average of the adapters is merged. The average of the merged weights would be different."""
    scored = EvaluationModel(small_classifier("bert"), lora_rank=2, ema_decay=0.5)
    steps = []
    for number in (1, 2):
        with torch.no_grad():
            for weight in scored.trained.parameters():
                if weight.requires_grad:
                    weight.normal_(std=0.1)
        scored.update(number)
        steps.append(weights(scored.trained))
    name = "encoder.encoder.layer.0.attention.self.query"
    mean_a, mean_b = (
        (0.5 * steps[0][f"{name}.lora_{part}.default.weight"] + steps[1][f"{name}.lora_{part}.default.weight"]) / 1.5
        for part in "AB"
    )
    base = steps[0][f"{name}.base_layer.weight"]
    scored.sync()
    torch.testing.assert_close(weights(scored.model)[f"{name}.weight"], base + lora.SCALE * mean_b @ mean_a)


# Buffers.


class NormalizedHead(nn.Module):
    """A head with buffers: batch normalization of the first token → Linear(D, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.output = nn.Linear(64, 2)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(self.norm(hidden_BTD[:, 0]))


@pytest.mark.parametrize(
    "options",
    (
        {"lora_rank": None, "ema_decay": 0.9},
        {"lora_rank": None, "ema_decay": None, "swa_start": 1},
        {"lora_rank": 2, "ema_decay": 0.9},
        {"lora_rank": 2, "ema_decay": None},
    ),
    ids=("ema", "swa", "ema of adapters", "adapters"),
)
def test_evaluation_model_has_the_buffers_of_the_trained_model(options: dict[str, Any]) -> None:
    """Also after a resume, which restores the trained model and the average."""

    def start() -> EvaluationModel:
        torch.manual_seed(0)
        return EvaluationModel(Classifier(make_model("bert"), NormalizedHead()), **options)

    uninterrupted, resumed = start(), start()
    for number in (1, 2, 3):
        uninterrupted.trained.train()(*some_tokens())
        uninterrupted.update(number)
    resumed.trained.load_state_dict(uninterrupted.trained.state_dict())
    resumed.load_average_state(uninterrupted.average_state())
    trained: Any = uninterrupted.trained.head
    for pair in (uninterrupted, resumed):
        pair.sync()
        evaluated: Any = pair.model.head
        assert evaluated.norm.num_batches_tracked == 3
        assert torch.equal(evaluated.norm.running_mean, trained.norm.running_mean)
        assert torch.equal(evaluated.norm.running_var, trained.norm.running_var)
    assert not torch.equal(trained.norm.running_mean, torch.zeros(64))


# Early stopping.


def test_patience_ends_training_without_other_changes(tmp_path: Path) -> None:
    """With a tiny learning rate, the first epoch stays the best."""
    still = ("lr=1e-30", "schedule=linear", "epochs=6", "optimizer=sgd", "optimizer.weight_decay=0")
    whole = make(tmp_path / "whole", *still)
    whole.fit(Trackers())
    stopped = make(tmp_path / "stopped", *still, "trainer.patience=2")
    stopped.fit(Trackers())
    assert (whole.state.epoch, stopped.state.epoch, stopped.state.best_epoch) == (6, 3, 1)
    for key in ("train/lr", "train/loss", "val/loss"):
        column = points(tmp_path / "stopped", key)
        assert column == points(tmp_path / "whole", key)[: len(column)] and len(column) >= 3


def test_patience_counts_from_best_epoch(tmp_path: Path) -> None:
    trainer = make(tmp_path, "epochs=10", "trainer.patience=2")
    for epoch, best, ends in ((0, 0, False), (1, 1, False), (2, 1, False), (3, 1, True), (3, 2, False), (10, 9, True)):
        trainer.state.epoch, trainer.state.best_epoch = epoch, best
        assert trainer.is_finished == ends


@pytest.mark.slow
def test_killed_run_stops_at_the_same_epoch_as_an_uninterrupted_run(tmp_path: Path) -> None:
    arguments = (*TINY, EVERY_STEP, "lr=1e-12", "epochs=5", "trainer.patience=1", "data.train_limit=32")
    for name in ("uninterrupted", "killed"):
        (tmp_path / name).mkdir()
    run(tmp_path / "uninterrupted", *arguments)
    for step in (3, 7):  # step 3 is in the first epoch, and step 7 is just before the end
        kill_at(tmp_path / "killed", *arguments, step=step)
    run(tmp_path / "killed", *arguments)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "uninterrupted")
    result = json.loads((run_folder(tmp_path / "killed") / "result.json").read_text())
    assert result["stopped_early"] is True and result["steps"] == 8 and result["best_epoch"] == 1


# Gradient checkpointing.


def kept_bytes_and_gradients(model: Classifier) -> tuple[int, dict[str, Tensor]]:
    """Return how many bytes a training step saves for backward (weights do not count), and the gradients."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BC = model(*some_tokens())
    total = sum(kept.values())
    logits_BC.square().sum().backward()
    return total, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_saves_memory_and_gives_the_same_gradients(family: str) -> None:
    """Use dropout: the recomputation must draw the same masks."""
    plain = small_classifier(family)
    assert (
        any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in plain.modules())
        or family == "modernbert"
    )
    recomputing = copy_of(plain)
    backbone = recompute_activations(
        Backbone(family, recomputing.encoder, None, cpu_fallback_reason=None, cuda_fallback_reason=None)
    )  # type: ignore[arg-type]
    assert backbone.cpu_fallback_reason is not None
    kept, gradients = kept_bytes_and_gradients(plain)
    fewer, again = kept_bytes_and_gradients(recomputing)
    assert fewer < kept / 3
    assert gradients.keys() == again.keys() and max(gradient.abs().max() for gradient in gradients.values()) > 0.1
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)


def test_run_with_gradient_checkpointing_takes_the_same_steps(tmp_path: Path) -> None:
    options = (*DESCENT, "lr=0.1", "backbone.dropout=0.2")
    library = make(tmp_path / "library", *options, "backbone.fast=false")
    recomputing = make(tmp_path / "recomputing", *options, "backbone.gradient_checkpointing=true")
    assert train_epoch(library) == pytest.approx(train_epoch(recomputing), rel=1e-6)
    assert distance(weights(library.model), weights(recomputing.model)) < 1e-6
