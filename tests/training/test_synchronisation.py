"""A step never waits for a GPU. The tests use PyTorch's meta device, whose tensors have no values.

Any operation that reads a value (`item`, `bool`, `nonzero`, boolean indexing, a copy to the CPU) raises an error there.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.heads import MAKERS
from support.small_models import make_folder
from support.trainers import Poison, contents, make

from imdbcls import sections
from imdbcls.kernels import unpadded
from imdbcls.kernels.heads import accelerate_head
from imdbcls.models.classifier import Classifier
from imdbcls.models.inference import predict_probabilities
from imdbcls.runtime.device import Hardware
from imdbcls.tracking import Trackers
from imdbcls.training.meter import NonFiniteError
from imdbcls.training.trainer import MAX_UNREAD_STEPS, Trainer


class NoValues(Hardware):
    """The meta device in float32; autocast does not support it."""

    def forward_pass(self) -> AbstractContextManager[None]:
        return nullcontext()


SMALL = ("max_length=12", "data.train_limit=10", "data.validation_limit=6")


def make_without_values(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Trainer:
    monkeypatch.setattr(sections, "choose_hardware", lambda *settings: NoValues(torch.device("meta"), "fp32"))
    monkeypatch.setattr(torch, "autocast", lambda *settings, **more: nullcontext())
    # The fused optimizers do not support the meta device.
    return make(folder, "optimizer.fused=false", "trainer.micro_batch_size=7", *SMALL, *overrides)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes the meta device use the GPU's implementation and kernel for unpadded rows."""
    return lambda: monkeypatch.setattr(unpadded, "applies", lambda device: True)


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ("padded", ("data.truncation=windows", "data.max_windows=2", "trainer.ema_decay=0.9")),
        ("unpadded", ("loss=focal", "loss.r_drop=1")),
    ],
)
def test_step_and_evaluation_read_nothing_from_the_device(
    rows: str, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], None]
) -> None:
    """Cover all heads in `MAKERS`, rows with and without padding, windows, R-Drop and averaging, with micro-batches."""
    trainer = make_without_values(tmp_path, monkeypatch, *settings)
    encoder = trainer.model.encoder
    if rows == "unpadded":
        unpadded.enable(encoder)
        kernel()
    done: list[int] = []
    heads = [make_head(encoder.config.hidden_size) for make_head in MAKERS.values() for _ in range(2)]
    for head in heads[::2]:
        accelerate_head(head)
    for head in heads:
        trainer.model = Classifier(encoder, head.to("meta")).train()
        for batch in trainer.batches.train.epoch(0):
            trainer.step(batch)
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # all logits are read at the end
            predict_probabilities(
                trainer.model, trainer.batches.validation, trainer.hardware, lambda count, total: done.append(count)
            )
    assert done.count(trainer.batches.validation.num_documents) == len(heads)
    assert len(trainer.meter.unread) == len(heads)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        trainer.fetch_metrics()


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_other_encoders_read_nothing_from_the_device(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads the mask in each pass, unless it gets a prepared mask."""
    path = f"backbone.path={make_folder(tmp_path / family, family)}"
    chosen = (f"backbone={family}-base", path, "backbone.fast=false", "trainer.micro_batch_size=null")
    trainer = make_without_values(tmp_path, monkeypatch, *chosen)
    batch = next(trainer.batches.train.epoch(0))
    trainer.step(batch)
    on_device = batch.to(trainer.hardware.device)
    with pytest.raises(RuntimeError, match="meta"):  # raised without a prepared mask
        trainer.model.encoder(input_ids=on_device.input_ids_BT, attention_mask=on_device.mask_BT)


def test_unpadded_modernbert_reads_nothing_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Callable[[], None]
) -> None:
    path = f"backbone.path={make_folder(tmp_path / 'modernbert', 'modernbert')}"
    trainer = make_without_values(tmp_path, monkeypatch, "backbone=modernbert-base", path, "head=mean")
    kernel()
    assert unpadded.is_enabled(trainer.model.encoder)
    trainer.step(next(trainer.batches.train.epoch(0)))


def test_metrics_are_fetched_only_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are fetched for log records, before a save and at the end of an epoch, however many steps there are."""
    trainer = make(tmp_path, "batch_size=4", "trainer.log_every=2", "epochs=2", *SMALL)
    trainer.max_unread_steps = MAX_UNREAD_STEPS  # the value on a GPU
    read: list[int] = []
    original = trainer.fetch_metrics

    def counted() -> None:
        read.append(len(trainer.meter.unread))
        original()

    monkeypatch.setattr(trainer, "fetch_metrics", counted)
    trainer.fit(Trackers())
    # Read after steps 2 and 4 (log records), 3 (end of an epoch) and 6 (both).
    assert read == [2, 1, 1, 2]


def test_nan_is_found_before_anything_is_saved(tmp_path: Path) -> None:
    """With the metrics of many steps unread, as on a GPU, the error names the first NaN step, and no NaN is saved."""
    trainer = make(tmp_path, "lr=0.01", "schedule=constant", "warmup=0", "epochs=3", "data.train_limit=64")
    trainer.max_unread_steps = MAX_UNREAD_STEPS
    trainer.settings = replace(trainer.settings, log_every=3)
    poison = Poison(trainer, step=6)  # the second step of the second epoch
    with pytest.raises(NonFiniteError, match=r"^Step 7 of 12, learning rate 0\.01: the loss is nan"):
        trainer.fit(poison)
    assert trainer.state.step == 8, "NaN is found at the end of the epoch"
    assert "model.safetensors" in poison.best
    assert contents(tmp_path / "checkpoints" / "best") == poison.best
