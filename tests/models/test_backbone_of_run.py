"""`backbone.path` can be the folder of a finished run."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import imdbcls
from imdbcls.config.paths import longest_document
from imdbcls.models.backbone import load_backbone
from imdbcls.runs.content import model_content_hash

pytestmark = pytest.mark.slow


def load(folder: Path) -> object:
    return load_backbone(name="x", path=str(folder), pretrained=True, dropout=None, attention_dropout=None, fast=True)


def test_encoder_starts_from_the_best_weights_of_a_run(finished: Path, tmp_path: Path) -> None:
    backbone = load(finished)
    file = finished / "checkpoints" / "best" / "model.safetensors"
    expected = {name: value for name, value in load_file(file).items() if name.startswith("encoder.")}
    found = {f"encoder.{name}": value for name, value in backbone.encoder.state_dict().items()}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert longest_document(finished) == 512

    other = tmp_path / "other"
    shutil.copytree(finished, other)
    assert model_content_hash(str(other)) == model_content_hash(str(finished)) != str(finished)
    weights = {name: value + 1 for name, value in load_file(file).items()}
    save_file(weights, other / "checkpoints" / "best" / "model.safetensors")
    assert model_content_hash(str(other)) != model_content_hash(str(finished)), "other weights must give another hash"
    del weights["encoder.embeddings.LayerNorm.weight"]
    save_file(weights, other / "checkpoints" / "best" / "model.safetensors")
    with pytest.raises(imdbcls.UserError, match="does not describe an encoder that fits the run's weights"):
        load(other)
