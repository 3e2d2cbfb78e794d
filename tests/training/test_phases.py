"""Tests for LP-FT: epochs that train only the head, and then epochs that train all weights."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.trainers import distance, make, points, weights, weights_after_epochs
from torch import Tensor

from imdbcls.errors import UserError
from imdbcls.tracking import Trackers

OPTIONS = ("head=cls", "trainer.head_first_epochs=1", "warmup=0.5", "lr=1e-3", "backbone.pretrained=false")


def part(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in named.items() if name.startswith(prefix)}


@pytest.mark.parametrize("cache", ("true", "false"))
def test_the_encoder_is_trained_only_after_the_head(cache: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, *OPTIONS, "epochs=3", f"backbone.cache={cache}")
    start, *after = weights_after_epochs(trainer)
    assert distance(part(start, "encoder."), part(after[0], "encoder.")) == 0
    assert distance(part(start, "head."), part(after[0], "head.")) > 1e-4
    for before, now in pairwise(after):
        assert all(distance(part(before, name), part(now, name)) > 1e-4 for name in ("encoder.", "head."))


def test_each_phase_has_its_own_schedule(tmp_path: Path) -> None:
    """An epoch has 4 steps. The warmup takes half of the steps of a phase."""
    trainer = make(tmp_path, *OPTIONS, "epochs=3", "trainer.head_first_lr=0.02", "optimizer.head_lr=5")
    rates: list[list[float]] = []
    step = trainer.step
    trainer.step = lambda batch: (rates.append([g["lr"] for g in trainer.optimizer.param_groups]), step(batch))
    trainer.fit(Trackers())
    assert points(tmp_path, "train/lr") == pytest.approx(
        [0.02 * share for share in (0, 1 / 2, 1, 1 / 2)]
        + [1e-3 * share for share in (0, 1 / 4, 2 / 4, 3 / 4, 1, 3 / 4, 2 / 4, 1 / 4)]
    )
    assert rates[2] == pytest.approx([0.1, 0.1])  # in both phases, head_lr multiplies the learning rate
    assert sorted(set(rates[8])) == pytest.approx([1e-3, 5e-3])


def test_the_second_phase_has_a_new_optimizer(tmp_path: Path) -> None:
    trainer = make(tmp_path, *OPTIONS, "epochs=2")
    probing = trainer.optimizer
    head = {id(weight) for weight in trainer.model.head.parameters()}
    assert {id(weight) for group in probing.param_groups for weight in group["params"]} == head
    for batch in trainer.batches.train.epoch(0):
        trainer.step(batch)
        trainer.count(batch)
    trainer.fetch_metrics()
    trainer.count_time(1.0)
    trainer.finish_epoch(Trackers())
    assert trainer.optimizer is not probing and not trainer.optimizer.state
    trained = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    assert trained == {id(weight) for weight in trainer.model.parameters()}


def test_cached_features_give_the_same_metrics(tmp_path: Path) -> None:
    """Use no dropout: without the cache, the encoder computes only the first token, and draws other masks."""
    for cache in ("true", "false"):
        options = (f"backbone.cache={cache}", "backbone.dropout=0", "epochs=2")
        make(tmp_path / cache, *OPTIONS, *options).fit(Trackers())
    for key in ("train/loss", "val/loss"):
        assert points(tmp_path / "true", key) == pytest.approx(points(tmp_path / "false", key), rel=1e-4)
    assert (tmp_path / "true" / "features").exists() and not (tmp_path / "false" / "features").exists()


def test_a_full_cache_does_not_promise_the_same_result_without_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training is slower, and the dropout masks can differ\."):
        make(tmp_path, *OPTIONS, "backbone.cache_gb=1e-9")
    with pytest.raises(UserError, match=r"training is slower, with the same result up to rounding\."):
        make(tmp_path, "backbone.freeze=true", "backbone.cache_gb=1e-9")


def test_the_best_epoch_may_be_one_that_trains_only_the_head(tmp_path: Path) -> None:
    """A huge learning rate makes the second phase worse. The best weights then contain the encoder unchanged."""
    trainer = make(tmp_path, *OPTIONS, "epochs=2", "schedule=constant", "warmup=0", "optimizer=sgd", "lr=30")
    start, head_trained, _ = weights_after_epochs(trainer)
    assert trainer.state.best_epoch == 1
    best = weights(trainer.evaluation_model.model)
    assert distance(part(best, "encoder."), part(start, "encoder.")) == 0
    assert distance(best, head_trained) == 0
    assert (trainer.final_validation() == trainer.evaluator.scores("validation", trainer.batches.validation)).all()


def test_patience_counts_only_epochs_that_train_all_weights(tmp_path: Path) -> None:
    trainer = make(tmp_path, *OPTIONS, "trainer.head_first_epochs=3", "epochs=10", "trainer.patience=2")
    for epoch, best, ends in ((3, 1, False), (4, 1, False), (5, 1, True), (5, 4, False), (6, 4, True), (10, 9, True)):
        trainer.state.epoch, trainer.state.best_epoch = epoch, best
        assert trainer.is_finished == ends


@pytest.mark.parametrize("options", (("trainer.ema_decay=0.9",), ("backbone.lora_rank=2",), ("backbone.freeze=1",)))
def test_other_options_keep_their_trained_weights(options: tuple[str, ...], tmp_path: Path) -> None:
    plain = make(tmp_path / "plain", *OPTIONS, *options, "trainer.head_first_epochs=0")
    expected = {name for name, weight in plain.model.named_parameters() if weight.requires_grad}
    trainer = make(tmp_path / "phases", *OPTIONS, *options, "epochs=2")
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained == {name for name in expected if name.startswith("head.")}
    start, after_head, after_all = weights_after_epochs(trainer)
    assert {name for name in start if not torch.equal(start[name], after_head[name])} == trained
    changed = {name for name in start if not torch.equal(after_head[name], after_all[name])}
    assert trained < changed <= expected
