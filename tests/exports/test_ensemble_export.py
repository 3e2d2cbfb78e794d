"""Several runs become one exported model whose softmax is the mean of their calibrated probabilities."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.special import softmax
from support.runs import Launch
from support.variants import change_result, in_float32, variant

import imdbcls
from imdbcls.export import export, parse
from imdbcls.exports.ensemble_result import ensemble_result
from imdbcls.exports.head_source import defined_names, head_source
from imdbcls.exports.recorded import recorded_values
from imdbcls.models.metrics import metrics_of

pytestmark = pytest.mark.slow

TEXTS = ["A quiet, patient film.", "Two hours, lost. " * 40, "Not bad."]


@pytest.fixture(scope="module")
def runs(finished: Path, second: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two runs with the head `lstm` and one run with the head `weight_avg`. The three temperatures differ."""
    study = tmp_path_factory.mktemp("ensemble")
    return [*(variant(finished, study / f"lstm{number}", number) for number in (0, 2)), variant(second, study / "w", 1)]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    from tokenizers import Tokenizer

    rows = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)
    return {
        "input_ids": np.array([row.ids for row in rows]),
        "attention_mask": np.array([r.attention_mask for r in rows]),
    }


def huggingface(folder: Path) -> np.ndarray:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device="cpu", trust_remote_code=True)
    answers = classify(TEXTS, truncation=True, top_k=None)
    return np.array(
        [[{e["label"]: e["score"] for e in row}[name] for name in ("negative", "positive")] for row in answers]
    )


def onnx(folder: Path) -> np.ndarray:
    import onnxruntime

    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, arrays(folder))
    return softmax(logits, axis=1)


def torch_program(folder: Path) -> np.ndarray:
    import torch

    inputs = {name: torch.from_numpy(value) for name, value in arrays(folder).items()}
    return torch.export.load(folder / "model.pt2").module()(*inputs.values()).softmax(dim=1).detach().numpy()


@pytest.mark.parametrize(("name", "read"), [("huggingface", huggingface), ("onnx", onnx), ("torch", torch_program)])
def test_export_gives_the_mean_of_the_probabilities(
    name: str, read: object, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    export(parse([*map(str, runs), "--to", name, "--output", str(output)]))
    ensemble = imdbcls.Ensemble(tuple(in_float32(run) for run in runs))
    expected = ensemble.predict(TEXTS).known_probabilities
    assert np.abs(expected - ensemble.runs[0].predict(TEXTS).known_probabilities).max() > 1e-3
    np.testing.assert_allclose(read(output), expected, atol=1e-5)  # type: ignore[operator]
    assert "Averaging 3 runs takes 3 times as long as one run and keeps 3 models in memory." in capsys.readouterr().err

    _, metadata, card = (output / "README.md").read_text().split("---\n", 2)
    recorded = [run.predictions("test") for run in ensemble.runs]
    mean_NC = np.mean(
        [run.calibrated(each).probabilities for run, each in zip(ensemble.runs, recorded, strict=True)], 0
    )
    accuracy = metrics_of(recorded[0].true_labels, mean_NC)["accuracy"]
    assert yaml.safe_load(metadata)["model-index"][0]["results"][0]["metrics"][0]["value"] == round(accuracy, 4)
    size = sum(run.result["parameters"] for run in ensemble.runs) / 1e6
    for sentence in (
        "# Mean of 3 runs: lstm on tiny; weight_avg on tiny, sample",
        "mean of the calibrated probabilities of 3 models",
        "takes 3 times as long as one run and keeps 3 models in memory",
        f"| accuracy | {accuracy:.2%} (95 % interval",
        f"Size: {size:.1f} million parameters",
        "compared with those of the averaged runs",
        *(f"| {run.result['name']} | {run.config.head.name} | tiny | 0 |" for run in ensemble.runs),
    ):
        assert sentence in card
    config = json.loads((output / "config.json").read_text())
    assert [member["temperature"] for member in config["members"]] == [1.0, 3.0, 2.0]
    if name == "huggingface":
        assert [path.name for path in output.glob("*.py")] == ["modeling_imdbcls.py"]


def test_caveat_on_one_encoder_applies_to_the_ensemble(runs: list[Path]) -> None:
    first, second = (imdbcls.load_run(run) for run in runs[:2])
    assert ensemble_result([first, second])["encoder_source"] == {"same_splits": True}
    seen = {**second.result, "encoder_source": {"run": "mlm-s0", "same_splits": False}}
    result = ensemble_result([first, replace(second, result=seen)])
    assert "may have learned from test documents" in recorded_values(result)["encoder_caveat"]


def test_runs_that_cannot_become_one_model_are_refused(
    runs: list[Path], finished: Path, launch: Launch, tmp_path: Path
) -> None:
    def with_config(folder: Path, **values: object) -> str:
        shutil.copytree(finished, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, **values}))
        return str(folder)

    other_tokens = Path(with_config(tmp_path / "tokens"))
    tokenizer = next((other_tokens / "backbone").rglob("tokenizer.json"))
    content = json.loads(tokenizer.read_text())
    content["normalizer"] = {"type": "Lowercase"} if content["normalizer"] is None else None
    tokenizer.write_text(json.dumps(content))
    first, data = str(runs[0]), yaml.safe_load((finished / "config.yaml").read_text())["data"]
    more = ["--to", "onnx", "--output", str(tmp_path / "out")]
    for arguments, sentence in (
        ([first, first, *more], "is given twice: pass different runs"),
        ([first, str(runs[1]), "--to", "onnx"], r"2 runs were given: add --output DIR"),
        ([first, with_config(tmp_path / "long", max_length=32), *more], r"has max_length=64, but .* has max_length=32"),
        (
            [first, with_config(tmp_path / "tail", data={**data, "truncation": "tail"}), *more],
            r"has data\.truncation=head, but .* has data\.truncation=tail",
        ),
        ([first, str(change_result(finished, tmp_path / "split", split_hash="0" * 16)), *more], "different documents"),
        (
            [first, str(change_result(finished, tmp_path / "labels", label_names=["a", "b"])), *more],
            "has the classes a",
        ),
        ([first, str(other_tokens), *more], "have different tokenizers"),
    ):
        with pytest.raises(imdbcls.UserError, match=sentence):
            export(parse(arguments))
    assert not (tmp_path / "out").exists()


def test_modelling_file_contains_each_head_once() -> None:
    from support.heads import MAKERS

    heads = [maker(8) for maker in MAKERS.values()]
    imports, code = head_source(*heads, *heads)
    compile("\n".join([*imports, code]), "heads", "exec")
    names = defined_names(code)
    assert len(set(names)) == len(names) and {type(head).__name__ for head in heads} <= set(names)


HEAD = """
from torch import nn

def helper(hidden_BTD):
    return hidden_BTD[:, 0]

class {name}(nn.Module):
    def forward(self, hidden_BTD, mask_BT):
        return helper(hidden_BTD)
"""


def test_heads_that_define_the_same_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    heads = []
    for module, name in (("first_plugin", "FirstHead"), ("second_plugin", "SecondHead")):
        (tmp_path / f"{module}.py").write_text(HEAD.format(name=name))
        heads.append(getattr(importlib.import_module(module), name)())
    with pytest.raises(imdbcls.UserError, match="modules first_plugin and second_plugin both define helper, so"):
        head_source(*heads)
    imports, code = head_source(heads[1], heads[1])
    assert code.count("def helper") == 1 and imports.count("from torch import nn") == 1
