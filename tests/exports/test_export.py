"""An export computes what its run computes, without imdbcls, and is written completely or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.runs import TINY, Launch
from support.variants import in_float32

import imdbcls
from imdbcls.export import export, parse
from imdbcls.exports import folder as folder_module
from imdbcls.exports.head_source import head_source
from imdbcls.exports.huggingface import write_huggingface

pytestmark = pytest.mark.slow

TEXTS = ["A quiet, patient film.", "Two hours, lost. " * 40, "Not bad."]


@pytest.fixture(scope="module")
def cls_run(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the head `cls` that reads the end of long documents."""
    folder = tmp_path_factory.mktemp("cls")
    launch(folder, "train", "head=cls", "data.truncation=tail", *TINY, "tracker=none", "runs_dir=runs", "study=demo")
    (run,) = (folder / "runs" / "demo").iterdir()
    return run


def probabilities_of(run: Path) -> np.ndarray:
    return in_float32(run).predict(TEXTS).known_probabilities


def test_cls_becomes_a_stock_class_without_code(cls_run: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    output = tmp_path / "stock"
    export(parse([str(cls_run), "--to", "huggingface", "--output", str(output)]))
    assert not list(output.glob("*.py"))
    assert json.loads((output / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    classify = pipeline("text-classification", model=str(output), device="cpu")
    answers = classify(TEXTS, truncation=True, top_k=None)
    found = [
        [{each["label"]: each["score"] for each in row}[name] for name in ("negative", "positive")] for row in answers
    ]
    temperature = imdbcls.load_run(cls_run).temperature
    odds = [temperature * np.diff(np.log(each), axis=1) for each in (found, probabilities_of(cls_run))]
    np.testing.assert_allclose(odds[0], odds[1], atol=1e-4)


def test_onnx_gives_the_probabilities_of_the_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime
    from scipy.special import softmax
    from tokenizers import Tokenizer

    output = tmp_path / "onnx"
    export(parse([str(finished), "--to", "onnx", "--output", str(output), "--int8"]))
    captured = capsys.readouterr()
    assert "int8: accuracy" in captured.out and "same class for" in captured.out and "documents/s" in captured.out
    rows = Tokenizer.from_file(str(output / "tokenizer.json")).encode_batch(TEXTS)
    inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
    arrays = {name: np.array(value, np.int64) for name, value in inputs.items()}
    expected = probabilities_of(finished)
    for name, tolerance in (("model.onnx", 1e-5), ("model.int8.onnx", 0.2)):
        (logits,) = onnxruntime.InferenceSession(output / name).run(None, arrays)
        np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=tolerance)
    settings = json.loads((output / "config.json").read_text())
    assert settings["labels"] == ["negative", "positive"] and settings["int8"]["documents"] == 24


def test_other_heads_get_one_file_of_code_and_a_model_card(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    export(parse([str(run), "--to", "huggingface"]))
    output = run / "export" / "huggingface"
    assert [path.name for path in output.glob("*.py")] == ["modeling_imdbcls.py"]
    assert "imdbcls." not in (output / "modeling_imdbcls.py").read_text()
    _, metadata, card = (output / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(metadata)
    result = imdbcls.load_run(run).result
    assert found["model-index"][0]["results"][0]["metrics"][0]["value"] == round(result["test/accuracy"], 4)
    for expected in ("trust_remote_code=True", f"{result['test/accuracy']:.2%}", "first 64 tokens", "Calibration"):
        assert expected in card
    assert str(tmp_path) not in "".join(path.read_text() for path in output.glob("*.json")) + card

    with pytest.raises(imdbcls.UserError, match=r"already exists\. Add --overwrite"):
        export(parse([str(run), "--to", "huggingface"]))


def test_export_that_computes_something_else_is_not_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: object, folder: Path) -> None:
        write_huggingface(source, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "temperature": 1.01 * config["temperature"]}))

    monkeypatch.setitem(folder_module.WRITERS, "huggingface", wrong)
    with pytest.raises(imdbcls.UserError, match=r"differ from the logits of the run by up to .* Nothing was written"):
        export(parse([str(finished), "--to", "huggingface", "--output", str(tmp_path / "new" / "out")]))
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_refused_before_anything_is_loaded(finished: Path, tmp_path: Path) -> None:
    windows = tmp_path / "windows"
    shutil.copytree(finished, windows)
    config = yaml.safe_load((windows / "config.yaml").read_text())
    config["data"]["truncation"] = "windows"
    (windows / "config.yaml").write_text(yaml.safe_dump(config))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("# Mine")
    run = str(finished)
    for arguments, sentence in (
        ((str(windows), "--to", "onnx"), "data.truncation=windows cannot be exported"),
        ((run, run, "--to", "onnx"), "2 runs were given: add --output DIR"),
        ((run, "--to", "torch", "--int8"), "--int8 can only be used with --to onnx"),
        ((run, "--to", "onnx", "--push", "a/b"), "--push can only be used with --to huggingface"),
        ((run, "--to", "huggingface", "--push", "no repository"), "is not a hub repository"),
        ((run, "--to", "huggingface", "--dry-run"), "--dry-run can only be used with --push"),
        ((run, "--to", "torch", "--overwrite", "--output", str(foreign)), "is not an export of imdbcls"),
    ):
        with pytest.raises(imdbcls.UserError, match=sentence.replace(".", r"\.")):
            export(parse(arguments))


def test_head_that_needs_other_packages_is_refused() -> None:
    from support.heads import MAKERS

    for maker in MAKERS.values():
        imports, code = head_source(maker(8))
        compile("\n".join([*imports, code]), "head", "exec")
        assert "imdbcls" not in code and "Annotated" not in code
    from imdbcls.kernels.lstm import __name__ as kernels

    class Foreign:
        __module__ = kernels

    with pytest.raises(imdbcls.UserError, match="Foreign cannot be exported to huggingface: its module imports"):
        head_source(Foreign())


@pytest.mark.parametrize("head", [("scalar_mix",), ("max_seq", "head.num_layers=2")], ids=lambda head: head[0])
def test_head_that_reads_several_layers_is_exported(head: tuple[str, ...], launch: Launch, tmp_path: Path) -> None:
    """`export` compares the exported models with the run, in a process without imdbcls."""
    short = ("epochs=1", "data.train_limit=16", "data.validation_limit=8", "data.test_limit=8")
    launch(
        tmp_path, "train", f"head={head[0]}", *head[1:], *TINY, *short, "tracker=none", "runs_dir=runs", "study=demo"
    )
    (run,) = (tmp_path / "runs" / "demo").iterdir()
    for format in ("huggingface", "onnx"):
        export(parse([str(run), "--to", format]))
