"""The masked language model has the same outputs as the model of transformers with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_models import make_folder
from support.small_models import make_model as make_encoder
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM

from imdbcls.models.backbone import load_backbone
from imdbcls.models.masked_lm import MaskedLanguageModel, masked_language_model

IDS_BT = torch.arange(5, 53).reshape(3, 16)
LENGTHS_B = torch.tensor([16, 9, 12])
MASK_BT = torch.arange(16) < LENGTHS_B[:, None]
INDICES_M = torch.tensor([1, 4, 17, 33, 40])


def load(folder: Path, fast: bool) -> MaskedLanguageModel:
    backbone = load_backbone(
        name="mine", path=str(folder), pretrained=True, dropout=0.0, attention_dropout=0.0, fast=fast
    )
    return masked_language_model(backbone, folder)


def save_with_head(folder: Path, family: str, **changes: Any) -> Any:
    make_folder(folder, family)
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder, **changes))
    for name, weight in model.named_parameters():
        if weight.ndim == 1:  # biases are zero and gains one in a new model
            torch.nn.init.normal_(weight, mean=float("orm.weight" in name), std=0.3)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    ("family", "changes"),
    (
        ("bert", {}),
        ("roberta", {}),
        ("modernbert", {}),
        ("modernbert", {"norm_eps": 0.1}),
        ("albert", {}),
        ("electra", {}),
        ("deberta-v2", {}),
        ("deberta-v2", {"legacy": False}),  # as in the weights of deberta-v3
    ),
)
@pytest.mark.parametrize("fast", (True, False))
def test_shipped_heads_give_the_logits_of_transformers(
    family: str, changes: dict[str, Any], fast: bool, tmp_path: Path
) -> None:
    expected_model = save_with_head(tmp_path, family, **changes)
    model = load(tmp_path, fast).eval()
    with torch.inference_mode():
        logits_MV = model(IDS_BT, MASK_BT, masked_indices_M=INDICES_M)
        expected_BTV = expected_model(input_ids=IDS_BT, attention_mask=MASK_BT.long()).logits
    torch.testing.assert_close(logits_MV, expected_BTV.flatten(0, 1)[INDICES_M], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fast", (True, False))
def test_gradients_are_those_of_transformers_also_for_the_tied_embeddings(fast: bool, tmp_path: Path) -> None:
    expected_model = save_with_head(tmp_path, "bert")
    model = load(tmp_path, fast).train()
    labels_M = IDS_BT.flatten()[INDICES_M]
    functional.cross_entropy(model(IDS_BT, MASK_BT, masked_indices_M=INDICES_M), labels_M).backward()
    logits_BTV = expected_model(input_ids=IDS_BT, attention_mask=MASK_BT.long()).logits
    functional.cross_entropy(logits_BTV.flatten(0, 1)[INDICES_M], labels_M).backward()
    for own, theirs in (
        (model.encoder.get_input_embeddings().weight, expected_model.get_input_embeddings().weight),  # type: ignore[operator]
        (model.head.bias, expected_model.cls.predictions.bias),
        (model.head.dense.weight, expected_model.cls.predictions.transform.dense.weight),  # type: ignore[union-attr]
    ):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_a_new_head_shares_the_embeddings_and_is_not_stored_twice(tmp_path: Path) -> None:
    make_folder(tmp_path, "bert")
    torch.manual_seed(0)
    model = load(tmp_path, fast=True)
    own = {name for name in model.state_dict() if name.startswith("head.")}
    assert own == {"head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias", "head.bias"}
    assert model.head.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)  # type: ignore[union-attr, operator]
    encoder = {name.removeprefix("encoder.") for name in model.state_dict()} - own
    assert encoder == {name for name in make_encoder("bert").state_dict() if not name.startswith("pooler.")}


@pytest.mark.parametrize("family", ("modernbert", "deberta-v2"))
def test_an_encoder_without_a_stored_head_gets_a_new_one(family: str, tmp_path: Path) -> None:
    make_folder(tmp_path, family)
    model = load(tmp_path, fast=True)
    logits_MV = model(IDS_BT, MASK_BT, masked_indices_M=INDICES_M)
    assert logits_MV.shape == (len(INDICES_M), len(model.head.bias)) and logits_MV.isfinite().all()  # type: ignore[arg-type]
