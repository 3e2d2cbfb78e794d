"""Tests for re-initializing the top layers of an encoder."""

from pathlib import Path

import pytest
import torch
from support.small_models import SPREAD, make_folder
from support.trainers import make, weights
from torch import Tensor
from transformers import AutoModel

from imdbcls.errors import UserError
from imdbcls.models.layers import parts_of

FAMILIES = ("bert", "roberta", "modernbert", "deberta-v2")


def options_of(folder: Path) -> tuple[str, ...]:
    return ("backbone=roberta-base", f"backbone.path={folder}", "head=cls", "max_length=32")


def encoder_and_head(folder: Path, *overrides: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    model = make(folder, *overrides).evaluation_model.model
    return model.encoder, weights(model.head)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_top_layer_is_new_and_follows_the_seed(family: str, tmp_path: Path) -> None:
    options = options_of(make_folder(tmp_path / "model", family))
    plain, head = encoder_and_head(tmp_path / "plain", *options)
    new, same_head = encoder_and_head(tmp_path / "new", *options, "backbone.reinit_layers=1")
    again, _ = encoder_and_head(tmp_path / "again", *options, "backbone.reinit_layers=1")
    other, _ = encoder_and_head(tmp_path / "other", *options, "backbone.reinit_layers=1", "seed=1")
    assert all(torch.equal(head[name], same_head[name]) for name in head)
    bottom, top = parts_of(plain)[1]
    new_bottom, new_top = parts_of(new)[1]
    assert all(map(torch.equal, bottom.state_dict().values(), new_bottom.state_dict().values()))
    matrices = [name for name, weight in top.named_parameters() if weight.ndim == 2]
    assert len(matrices) >= 4
    for name in matrices:
        fresh = new_top.get_parameter(name)
        assert not torch.equal(fresh, top.get_parameter(name))
        assert torch.equal(fresh, parts_of(again)[1][1].get_parameter(name))
        assert not torch.equal(fresh, parts_of(other)[1][1].get_parameter(name))
    assert all(weight.requires_grad for weight in new.parameters())
    changed = {name for name, weight in weights(plain).items() if not torch.equal(weight, weights(new)[name])}
    assert changed <= {name for name in weights(plain) if ".1." in name}  # the layers are numbered 0 and 1


def test_new_weights_come_from_the_models_own_initializer(tmp_path: Path) -> None:
    """BERT draws weights with the config's standard deviation, sets biases to zero, and norms to gain 1 and bias 0."""
    folder = make_folder(tmp_path / "model", "bert")
    trained = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.normal_()
    trained.save_pretrained(folder)
    encoder, _ = encoder_and_head(tmp_path, *options_of(folder), "backbone.reinit_layers=1")
    _, top = parts_of(encoder)[1]
    for name, weight in top.named_parameters():
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(SPREAD, rel=0.05) and abs(weight.mean().item()) < SPREAD / 10
        else:
            assert (weight == (1 if name.endswith("LayerNorm.weight") else 0)).all()


def test_more_layers_than_the_encoder_trains_are_refused(tmp_path: Path) -> None:
    options = options_of(make_folder(tmp_path / "model", "bert"))
    with pytest.raises(UserError, match=r"reinit_layers=3: backbone=roberta-base has 2 layers\. Use up to 2\.$"):
        make(tmp_path, *options, "backbone.reinit_layers=3")
    with pytest.raises(UserError, match=r"2 layers, and backbone\.freeze=1 freezes the lowest 1\. Use up to 1\.$"):
        make(tmp_path, *options, "backbone.reinit_layers=2", "backbone.freeze=1")
    make(tmp_path, *options, "backbone.reinit_layers=1", "backbone.freeze=1")
