"""Weights frozen by `backbone.freeze` get no gradient and do not change by a bit, in every family."""

from pathlib import Path

import pytest
import torch
from support.backbones import load
from support.small_models import FAMILIES, SIZES, make_folder
from support.trainers import make, train_epoch, weights
from torch import Tensor

from imdbcls.errors import UserError
from imdbcls.heads.mean import MeanHead
from imdbcls.models.classifier import Classifier, count_parameters
from imdbcls.models.layers import freeze

NUM_LAYERS = SIZES["num_hidden_layers"]


@pytest.fixture(scope="module", params=["bert", *sorted(set(FAMILIES.values()))])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp(request.param), request.param)


def graph_of(result: Tensor) -> tuple[int, set[int]]:
    """Return the number of nodes in the backward graph of a tensor, and the ids of the weights that get a gradient."""
    seen, leaves, left = set(), set(), [result.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves |= {id(node.variable)} if hasattr(node, "variable") else set()
            left += [following for following, _ in node.next_functions]
    return len(seen), leaves


def test_backward_pass_ends_at_the_lowest_trainable_layer(folder: Path) -> None:
    """Each frozen layer makes the backward graph smaller, and the graph contains no frozen weight."""
    ids_BT, mask_BT = torch.randint(5, 99, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
    sizes = []
    for layers in (False, *range(NUM_LAYERS), True):
        backbone = load(folder)
        freeze(backbone, layers)
        model = Classifier(backbone.encoder, MeanHead(hidden_size=64, num_labels=2)).train()
        size, leaves = graph_of(model(ids_BT, mask_BT))
        names = {name for name, weight in model.named_parameters() if id(weight) in leaves}
        assert names == {name for name, weight in model.named_parameters() if weight.requires_grad}
        for number in range(NUM_LAYERS):
            trained = any(f"layer.{number}." in name or f"layers.{number}." in name for name in names)
            assert trained == (layers is False or (layers is not True and number >= layers))
        assert any("embeddings" in name for name in names) == (layers is False)
        assert {"head.output.weight", "head.output.bias"} <= names
        sizes.append(size)
    assert sizes == sorted(set(sizes), reverse=True)


def test_frozen_weights_do_not_change_and_are_not_in_the_optimizer(tmp_path: Path) -> None:
    """Use weight decay and momentum, which would change a weight even with a zero gradient."""
    choices = ("backbone.freeze=1", "head=mean", "lr=1e-2", "warmup=0", "optimizer.weight_decay=0.1", "epochs=1")
    trainer = make(tmp_path, *choices)
    before = weights(trainer.model)
    assert train_epoch(trainer)
    after = weights(trainer.model)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {name for name, weight in trainer.model.named_parameters() if not weight.requires_grad}
    assert unchanged == frozen == {name for name in before if "embeddings." in name or "layer.0." in name}
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(weight) for weight in trainer.model.parameters() if weight.requires_grad}
    assert all(weight.grad is None for weight in trainer.model.parameters() if not weight.requires_grad)


def test_frozen_encoder_has_no_dropout_but_frozen_layers_do(tmp_path: Path) -> None:
    for layers, same in (("true", True), ("1", False)):
        trainer = make(tmp_path / layers, f"backbone.freeze={layers}", "backbone.dropout=0.3")
        trainer.model.train()
        assert trainer.model.head.training
        batch = next(trainer.batches.train.epoch(0))
        first, second = (trainer.model.encoder(batch.input_ids_BT, batch.mask_BT)[0] for _ in range(2))
        assert torch.equal(first, second) is same
    assert count_parameters(trainer.model, trainable=True) < count_parameters(trainer.model)


def test_freezing_too_many_layers(folder: Path) -> None:
    for layers in (NUM_LAYERS, 12):
        with pytest.raises(UserError, match=f"freeze={layers} freezes all 2 layers .* up to 1, or"):
            freeze(load(folder), layers)
