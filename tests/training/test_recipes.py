"""Tests for the effects of optimizer, learning rate and loss options."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from support.small_models import make_model
from support.trainers import NO_DROPOUT, PLAIN_SGD, distance, make, points, train_epoch, weights
from torch import Tensor, nn

from imdbcls.errors import UserError
from imdbcls.heads.mean import MeanHead
from imdbcls.models.classifier import Classifier
from imdbcls.tracking import Trackers
from imdbcls.training import optim
from imdbcls.training.losses import CrossEntropy, Focal, Objective, symmetric_divergence, weights_of_classes

# Optimizers.


def test_lion_follows_its_algorithm() -> None:
    """Compute algorithm 2 of the paper with floats. In the last two steps, the momentum sets the sign."""
    weight = nn.Parameter(torch.tensor([2.0]))
    lion = optim.Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    value, momentum = 2.0, 0.0
    for gradient in (3.0, -4.0, 0.05, 0.0):
        weight.grad = torch.tensor([gradient])
        lion.step()
        direction = math.copysign(1, 0.9 * momentum + 0.1 * gradient)
        value -= 0.1 * (direction + 0.5 * value)
        momentum = 0.99 * momentum + 0.01 * gradient
        assert weight.item() == pytest.approx(value, rel=1e-6)


def test_lion_state_is_half_of_adamws(tmp_path: Path) -> None:
    kept = {}
    for name in ("lion", "adamw"):
        trainer = make(tmp_path / name, f"optimizer={name}")
        train_epoch(trainer)
        tensors, _ = optim.state_of(trainer.optimizer)
        kept[name] = sum(tensor.numel() for tensor in tensors.values() if tensor.ndim > 0)
    assert 2 * kept["lion"] == kept["adamw"] > 0


# Learning rates of head and layers.


def steps_taken(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """Return how far one step of gradient descent moves each weight."""
    trainer = make(folder, *NO_DROPOUT, *PLAIN_SGD, "trainer.max_grad_norm=null", *overrides)
    before = weights(trainer.model)
    trainer.step(next(trainer.batches.train.epoch(0)))
    assert optim.learning_rate(trainer.optimizer) == 1
    return {name: before[name] - after for name, after in weights(trainer.model).items()}


def test_head_and_layers_use_their_learning_rates(tmp_path: Path) -> None:
    plain = steps_taken(tmp_path / "plain")
    apart = steps_taken(tmp_path / "apart", "optimizer.head_lr=10", "optimizer.layer_decay=0.5")
    multiples = {"head.": 10, "encoder.encoder.layer.1.": 0.5, "encoder.encoder.layer.0.": 0.25}
    multiples["encoder.embeddings."] = 0.125
    seen = set()
    for name, step in plain.items():
        (part,) = [part for part in multiples if name.startswith(part)]
        torch.testing.assert_close(apart[name], multiples[part] * step, rtol=1e-3, atol=1e-6)
        seen |= {part} if step.abs().max() > 1e-4 else set()
    assert seen == set(multiples), "every part must move far enough for a comparison"


LAYERS = {"bert": "encoder.layer", "roberta": "encoder.layer", "modernbert": "layers", "deberta-v2": "encoder.layer"}


@pytest.mark.parametrize("family", LAYERS)
def test_layers_are_found_in_all_architectures(family: str) -> None:
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
def test_schedules_keep_learning_rate_ratios(schedule: partial) -> None:
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


def test_without_multiples_there_are_two_groups(tmp_path: Path) -> None:
    """With one learning rate, the groups differ only in weight decay."""
    groups = optim.parameter_groups(make(tmp_path).model, lr=0.1)
    assert [sorted(group) for group in groups] == [["lr_multiple", "params"], ["lr_multiple", "params", "weight_decay"]]
    assert all(group["lr_multiple"] == 1 for group in groups)


# Losses.


def some_logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_BC = 2 * torch.randn(12, 3, generator=generator)
    return logits_BC.requires_grad_(), torch.arange(12) % 3


def test_default_loss_is_cross_entropy(tmp_path: Path) -> None:
    objective = make(tmp_path).objective
    logits_BC, labels_B = some_logits()
    plain = nn.CrossEntropyLoss(reduction="sum")(logits_BC, labels_B)
    assert objective.num_passes == 1 and torch.equal(objective([logits_BC], labels_B), plain)


def test_focal_loss_equals_formula() -> None:
    logits_BC, labels_B = some_logits()
    weights_C = torch.tensor([0.5, 1.0, 2.0])
    focal = Focal(gamma=2.0, class_weights_C=weights_C, label_smoothing=0.0)(logits_BC, labels_B)
    expected = 0.0
    for row, label in enumerate(labels_B.tolist()):
        p = logits_BC[row].softmax(dim=0)[label].item()
        expected -= weights_C[label].item() * (1 - p) ** 2 * math.log(p)
    assert focal.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_gamma_is_cross_entropy_and_gamma_reduces_confident_terms() -> None:
    logits_BC, labels_B = some_logits()
    weights_C = torch.tensor([0.5, 1.0, 2.0])
    settings = {"class_weights_C": weights_C, "label_smoothing": 0.1}
    torch.testing.assert_close(
        Focal(gamma=0.0, **settings)(logits_BC, labels_B), CrossEntropy(**settings)(logits_BC, labels_B)
    )
    plain = {"class_weights_C": None, "label_smoothing": 0.0}
    shares = []
    for loss in (CrossEntropy(**plain), Focal(gamma=2.0, **plain)):
        easy, hard = (loss(torch.tensor([[logit, 0.0]]), torch.tensor([0])).item() for logit in (3.0, -1.0))
        shares.append(easy / hard)
    assert shares[1] < shares[0] / 50


@pytest.mark.parametrize("gamma", (0.0, 0.5, 2.0))
def test_focal_loss_gradient_is_finite_for_certain_documents(gamma: float) -> None:
    logits_BC = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], requires_grad=True)
    Focal(gamma=gamma, class_weights_C=None, label_smoothing=0.0)(logits_BC, torch.tensor([0, 0])).backward()
    assert logits_BC.grad is not None and logits_BC.grad.isfinite().all()
    assert logits_BC.grad[1].abs().max() > 0.9, "the misclassified document must have a gradient"


def test_label_smoothing_equals_formula() -> None:
    logits_BC, labels_B = some_logits()
    smoothed = CrossEntropy(class_weights_C=None, label_smoothing=0.3)(logits_BC, labels_B)
    targets_BC = 0.7 * torch.nn.functional.one_hot(labels_B) + 0.3 / 3
    torch.testing.assert_close(smoothed, -(targets_BC * logits_BC.log_softmax(dim=1)).sum())


LABELS = np.array([0] * 6 + [1] * 3 + [2])


def test_automatic_class_weights_equal_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    found = weights_of_classes("auto", LABELS, ["a", "b", "c"])
    assert found is not None and found.tolist() == pytest.approx(expected)
    assert found[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1), "the mean weight of the documents is 1"


def test_only_ratios_of_class_weights_matter() -> None:
    names = ["neg", "neutral", "pos"]
    by_list = weights_of_classes([2, 4, 8], LABELS, names)
    by_name = weights_of_classes({"pos": 4, "neg": 1, "neutral": 2}, LABELS, names)
    assert by_list is not None and by_name is not None and torch.equal(by_list, by_name)
    assert (by_list / by_list[0]).tolist() == pytest.approx([1, 2, 4])
    assert by_list[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1)
    assert weights_of_classes(None, LABELS, names) is None
    of_flags = weights_of_classes(
        {True: 5, False: 1}, LABELS.clip(max=1), ["false", "true"]
    )  # booleans match the labels "true" and "false"
    assert of_flags is not None and (of_flags / of_flags[0]).tolist() == pytest.approx([1, 5])
    equal = weights_of_classes([3, 3, 3], LABELS, names)
    assert equal is not None and equal.tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("class_weights", "message"),
    (
        ([1, 2], r"^loss\.class_weights has 2 weights for 3 classes: neg, neutral, pos\. Set one weight "),
        (
            {"neg": 1, "pos": 2},
            r"^loss\.class_weights has weights for neg, pos, but the classes are neg, neutral, pos\. ",
        ),
        ({"neg": 1, "neutral": 1, "positive": 2}, r"^loss\.class_weights has weights for neg, neutral, positive, but "),
    ),
)
def test_class_weights_that_do_not_match_the_classes(class_weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weights_of_classes(class_weights, LABELS, ["neg", "neutral", "pos"])


def test_accumulation_equals_larger_batch_with_all_loss_options(tmp_path: Path) -> None:
    options = ("loss=focal", "loss.label_smoothing=0.1", "loss.class_weights=[1,9]", *NO_DROPOUT, *PLAIN_SGD)
    whole = make(tmp_path / "whole", *options)
    parts = make(tmp_path / "parts", *options, "trainer.micro_batch_size=5")
    before = weights(whole.model)
    assert train_epoch(whole) == pytest.approx(train_epoch(parts), abs=1e-5)
    assert distance(weights(whole.model), weights(parts.model)) < 1e-5 < 1e-2 < distance(before, weights(whole.model))


def test_class_with_larger_weight_is_predicted_more_often(tmp_path: Path) -> None:
    shares = {}
    for name, class_weights in {"neg": "{negative: 20, positive: 1}", "pos": "{negative: 1, positive: 20}"}.items():
        trainer = make(tmp_path / name, f"loss.class_weights={class_weights}", "lr=1e-3", "head=mean")
        train_epoch(trainer)
        predicted = trainer.evaluator.scores("validation", trainer.batches.validation).argmax(axis=1)
        shares[name] = predicted.mean()  # the share of documents predicted as class 1, positive
    assert shares["neg"] < 0.2 and shares["pos"] > 0.8


def test_validation_loss_is_cross_entropy_for_any_training_loss(tmp_path: Path) -> None:
    losses = {}
    for name, options in {"plain": (), "other": ("loss=focal", "loss.class_weights=[1,3]", "loss.r_drop=1")}.items():
        trainer = make(tmp_path / name, "optimizer=sgd", "lr=1e-30", "optimizer.weight_decay=0", "epochs=1", *options)
        trainer.fit(Trackers())
        losses[name] = (points(tmp_path / name, "train/loss"), points(tmp_path / name, "val/loss"))
    assert losses["plain"][0] != losses["other"][0]
    assert losses["plain"][1] == losses["other"][1]


# R-Drop.


def test_symmetric_divergence_equals_pytorch() -> None:
    first_BC, labels_B = some_logits()
    second_BC = first_BC.detach().flip(0) * 0.7
    p, q = first_BC.log_softmax(dim=1), second_BC.log_softmax(dim=1)
    kl_div = partial(torch.nn.functional.kl_div, reduction="sum", log_target=True)
    torch.testing.assert_close(symmetric_divergence(first_BC, second_BC), (kl_div(p, q) + kl_div(q, p)) / 2)
    loss = CrossEntropy(class_weights_C=None, label_smoothing=0.0)
    found = Objective(loss, 3.0)([first_BC, second_BC], labels_B)
    mean = (loss(first_BC, labels_B) + loss(second_BC, labels_B)) / 2
    torch.testing.assert_close(found, mean + 3 * symmetric_divergence(first_BC, second_BC))


def test_r_drop_reduces_the_difference_between_passes(tmp_path: Path) -> None:
    """After the same steps, two passes with different dropout agree more than without R-Drop."""
    divergences = {}
    for r_drop in (0, 20):
        options = ("backbone.dropout=0.3", "head.dropout=0.3", "head=cls", "lr=3e-3", "epochs=8", "warmup=0")
        trainer = make(tmp_path / str(r_drop), *options, f"loss.r_drop={r_drop}")
        trainer.fit(Trackers())
        trainer.model.train()
        torch.manual_seed(0)
        with torch.no_grad():
            divergences[r_drop] = sum(
                symmetric_divergence(*(trainer.model(batch.input_ids_BT, batch.mask_BT) for _ in range(2))).item()
                for batch in trainer.batches.train.epoch(0)
            )
    assert 0 < divergences[20] < divergences[0] / 2


def test_r_drop_passes_have_different_dropout_and_micro_batches_add_up(tmp_path: Path) -> None:
    trainer = make(tmp_path, "head=cls", "loss.r_drop=1", "trainer.micro_batch_size=5", *PLAIN_SGD)
    seen = []
    trainer.objective.loss = lambda logits_BC, labels_B: seen.append(logits_BC) or logits_BC.sum() * 0
    batch = next(trainer.batches.train.epoch(0))
    divergence = trainer.step(batch)[0].item()
    assert [len(logits_BC) for logits_BC in seen] == [5, 5, 5, 5, 5, 5, 1, 1]
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(not torch.equal(*pair) for pair in pairs)
    assert divergence == pytest.approx(sum(symmetric_divergence(*pair).item() for pair in pairs) / len(batch), rel=1e-4)
