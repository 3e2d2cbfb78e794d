"""The choices of optimisation, each by its effect: the optimizer and its learning rates."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from small_models import make_model
from test_trainer import NO_DROPOUT, PLAIN_SGD, make, train_epoch, weights
from torch import Tensor, nn

from imdbcls import optim
from imdbcls.heads.mean import MeanHead
from imdbcls.model import Classifier

# Optimizers.


def test_lion_takes_the_steps_of_its_algorithm() -> None:
    """Algorithm 2 of the paper in plain numbers; the third gradient is small enough for the momentum to overrule it."""
    weight = nn.Parameter(torch.tensor([2.0]))
    lion = optim.Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    value, momentum = 2.0, 0.0
    for gradient in (3.0, -4.0, -0.01, 0.0):
        weight.grad = torch.tensor([gradient])
        lion.step()
        direction = math.copysign(1, 0.9 * momentum + 0.1 * gradient)
        value -= 0.1 * (direction + 0.5 * value)
        momentum = 0.99 * momentum + 0.01 * gradient
        assert weight.item() == pytest.approx(value, rel=1e-6)


def test_lion_keeps_half_of_what_adamw_keeps(tmp_path: Path) -> None:
    kept = {}
    for name in ("lion", "adamw"):
        trainer = make(tmp_path / name, f"optimizer={name}")
        train_epoch(trainer)
        tensors, _ = optim.state_of(trainer.optimizer)
        kept[name] = sum(tensor.numel() for tensor in tensors.values() if tensor.ndim > 0)
    assert 2 * kept["lion"] == kept["adamw"] > 0


def test_lion_refuses_what_is_out_of_range() -> None:
    for settings in ({"betas": (0.9, 1.0)}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match=r"^(betas|weight_decay)="):
            optim.Lion([nn.Parameter(torch.zeros(1))], lr=1e-4, **settings)


# Learning rates apart.


def steps_taken(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """How far one step of plain gradient descent moves each weight."""
    trainer = make(folder, *NO_DROPOUT, *PLAIN_SGD, "trainer.max_grad_norm=null", *overrides)
    before = weights(trainer.model)
    trainer.step(next(trainer.train_batches.epoch(0)))
    assert optim.learning_rate(trainer.optimizer) == 1
    return {name: before[name] - after for name, after in weights(trainer.model).items()}


def test_the_head_and_each_layer_move_at_their_multiples(tmp_path: Path) -> None:
    plain = steps_taken(tmp_path / "plain")
    apart = steps_taken(tmp_path / "apart", "optimizer.head_lr=10", "optimizer.layer_decay=0.5")
    multiples = {"head.": 10, "encoder.encoder.layer.1.": 0.5, "encoder.encoder.layer.0.": 0.25}
    multiples["encoder.embeddings."] = 0.125
    seen = set()
    for name, step in plain.items():
        (part,) = [part for part in multiples if name.startswith(part)]
        torch.testing.assert_close(apart[name], multiples[part] * step, rtol=1e-3, atol=1e-6)
        seen |= {part} if step.abs().max() > 1e-4 else set()
    assert seen == set(multiples), "every part moves far enough to be compared"


LAYERS = {"bert": "encoder.layer", "roberta": "encoder.layer", "modernbert": "layers", "deberta-v2": "encoder.layer"}


@pytest.mark.parametrize("family", LAYERS)
def test_layers_are_found_in_every_architecture(family: str) -> None:
    model = Classifier(make_model(family), MeanHead(hidden_size=64, num_labels=2))
    multiples = optim.lr_multiples(model, head_lr=3.0, layer_decay=0.5)
    expected = {}
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            expected[parameter] = 3.0
        elif name.startswith(f"encoder.{LAYERS[family]}.1.") or "final_norm" in name:
            expected[parameter] = 0.5
        elif name.startswith(f"encoder.{LAYERS[family]}.0."):
            expected[parameter] = 0.25
        else:
            assert "emb" in name or "LayerNorm" in name or "pooler" in name, name
            expected[parameter] = 0.125
    assert multiples == expected and set(expected.values()) == {3.0, 0.5, 0.25, 0.125}


@pytest.mark.parametrize(
    "schedule",
    (
        optim.linear,
        optim.cosine,
        optim.constant,
        partial(optim.onecycle, div_factor=25.0, final_div_factor=1e4, cycle_momentum=True),
    ),
)
def test_schedules_keep_the_ratios(schedule: partial) -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate, "lr_multiple": rate} for rate in (1.0, 5.0, 0.25)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    moved = schedule(optimizer, num_steps=10, num_warmup_steps=3)
    rates = []
    for _ in range(10):
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([found[0], 5 * found[0], 0.25 * found[0]])
        assert optim.learning_rate(optimizer) == pytest.approx(found[0])
        rates.append(found[0])
        optimizer.step()
        moved.step()
    assert len(set(rates)) > 3


def test_without_multiples_there_are_the_two_groups_of_before(tmp_path: Path) -> None:
    """One rate for all: what a group is given beside its weights decides nothing."""
    groups = optim.parameter_groups(make(tmp_path).model, lr=0.1)
    assert [sorted(group) for group in groups] == [["lr_multiple", "params"], ["lr_multiple", "params", "weight_decay"]]
    assert all(group["lr_multiple"] == 1 for group in groups)
