"""For every head, an interrupted run continues to the same bits."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support.heads import FOR_TWO_LAYERS, HEADS
from support.trainers import make

from imdbcls.runtime.signals import Interrupted
from imdbcls.tracking import Tracker, Trackers
from imdbcls.training.trainer import Trainer


class StopAt(Tracker):
    """A tracker that requests a stop, as a signal does, after a step."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def log(self, point: Mapping[str, float | int]) -> None:
        if point["step"] == self.step:
            self.trainer.control.stop.signal_number = 15


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_interrupted_run_continues_to_the_same_bits(head: str, tmp_path: Path) -> None:
    """The run uses dropout, micro-batches and a frozen encoder, whose output is cached."""
    settings = (
        *FOR_TWO_LAYERS.get(head, ()),
        *(f"head={head}", "backbone.freeze=true", "trainer.micro_batch_size=3", "lr=1e-3", "max_length=16"),
        *("epochs=2", "data.train_limit=32", "data.validation_limit=8", "data.test_limit=8", "trainer.log_every=1"),
        f"data.cache_dir={tmp_path}",
    )
    whole = make(tmp_path / "whole", *settings)
    whole.fit(Trackers())
    stopped = make(tmp_path / "stopped", *settings)
    with pytest.raises(Interrupted):
        stopped.fit(StopAt(stopped, 3))
    again = make(tmp_path / "stopped", *settings)
    assert again.resume() == 3 < again.num_steps
    again.fit(Trackers())
    expected = whole.model.head.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in again.model.head.state_dict().items())
