"""Parts of an export: its check, its code, its card and its folder."""

import ast
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import imdbcls
from imdbcls import sections
from imdbcls.data.documents import Documents
from imdbcls.exports import FORMATS, int8, onnx_file, standalone
from imdbcls.exports.card import model_card, settings
from imdbcls.exports.documents import CheckDocuments, check_batches
from imdbcls.exports.folder import WRITERS, put_in_place
from imdbcls.exports.head_source import head_source
from imdbcls.exports.huggingface import tokenizer_config, without_code
from imdbcls.exports.program import trace, with_library_operators
from imdbcls.exports.source import ExportSource, Member
from imdbcls.exports.verification import Verified
from imdbcls.runs.record import FRACTIONS, TEXTS

HEAD = '''
from __future__ import annotations
import typing
from typing import Annotated
from annotated_types import Gt, Len
from torch import nn

Sizes = Annotated[list[Annotated[int, Gt(0)]], Len(1, 3)]

class Head(nn.Module):
    def __init__(self, scale: Annotated[float | None, Gt(0)] = None, rate: typing.Annotated[
        float, Gt(0)
    ] = 0.5) -> None:
        """Scale."""
'''


def test_every_format_has_a_writer_and_a_reader() -> None:
    assert tuple(WRITERS) == tuple(standalone.FORMATS) == FORMATS


def test_head_of_a_plugin_loses_the_ranges_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "head_of_a_plugin.py"
    path.write_text(HEAD)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    imports, code = head_source(module.Head())
    assert imports[0] == "from __future__ import annotations"
    defined: dict[str, Any] = {}
    exec(compile("\n".join([*imports, code]), "head", "exec"), defined)
    assert defined["Sizes"] == list[int]
    assert defined["Head"].__init__.__annotations__ == {"scale": "float | None", "rate": "float", "return": "None"}
    assert ast.get_docstring(ast.parse(code).body[-1].body[0]) == "Scale."  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "max_length"),
    [("gru", 64), ("bilstm", 64), ("cnn", 64), ("weight_avg", 16), ("weight_avg_plain", 8)],
)
def test_traced_head_accepts_batches_of_any_size(head: str, max_length: int) -> None:
    config = imdbcls.compose("backbone=tiny", f"head={head}", f"max_length={max_length}", "backbone.fast=false")
    backbone = sections.build_backbone(config)
    model = sections.build_model(config, backbone, 2).eval()
    member = SimpleNamespace(model=model, run=SimpleNamespace(temperature=2.0))
    source: Any = SimpleNamespace(members=[member], is_ensemble=False, tokenizer=backbone.tokenizer, config=config)
    traced = with_library_operators(trace(source))
    assert "imdbcls" not in str(traced.graph)
    for lengths in ([2], [max_length // 2 + 1, 3], [max_length, 1, 4, max_length]):
        mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
        ids_BT = torch.randint(5, 50, mask_BT.shape) * mask_BT
        with torch.no_grad():
            logits_BC = traced.module()(ids_BT, mask_BT.long())
            torch.testing.assert_close(logits_BC, model(ids_BT, mask_BT) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 3, 9])
def test_rows_of_the_check_begin_with_the_first_token_of_a_document(num_rows: int) -> None:
    source: Any = SimpleNamespace(config=SimpleNamespace(max_length=64), tokenizer=SimpleNamespace(pad_token_id=0))
    rows = [[1, *range(100 * (i + 1), 100 * (i + 1) + 5 + 3 * i), 2] for i in range(num_rows)]
    batches = check_batches(rows, source)
    assert [len(batch["input_ids"]) for batch in batches] == [1, 7, 1, 7, 1, 7, 7]
    for batch in batches:
        for i, ids in enumerate(batch["input_ids"]):
            assert ids[:3] == rows[i % num_rows][:3]


def test_cost_of_int8_is_measured_on_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation documents are sorted by id, and the first half has one class."""
    texts = ["word " * (1 + i % 10) for i in range(40)]
    documents = Documents([f"{i:03}" for i in range(40)], texts, np.repeat([0, 1], 20))
    for name in (onnx_file.MODEL, int8.INT8_MODEL):
        (tmp_path / name).write_bytes(b"0")

    def always_first(source: object, paths: list[Path], texts: list[str]) -> list[tuple[np.ndarray, float]]:
        return [(np.tile([1.0, 0.0], (len(texts), 1)), 1.0) for _ in paths]

    monkeypatch.setattr(int8, "classify", always_first)
    cost = int8.measure(SimpleNamespace(), tmp_path, CheckDocuments(documents, True), 20)  # type: ignore[arg-type]
    assert cost.documents == 20 and cost.accuracy == 0.5


def card_of(run: imdbcls.FinishedRun, folder: Path, result: dict[str, Any]) -> str:
    nothing: Any = None
    run = imdbcls.FinishedRun(folder, run.config, {**result, "temperature": 1.5})
    source = ExportSource((Member(run, nothing, nothing),), nothing)
    return model_card("huggingface", source, False, Verified(0.0, 7), CheckDocuments(nothing, True), None)


@pytest.mark.slow
def test_card_is_written_from_any_result_that_imdbcls_accepts(finished: Path, tmp_path: Path) -> None:
    run = imdbcls.load_run(finished)
    required = (*TEXTS, *FRACTIONS, "status", "seed", "test_documents", "label_names")
    least = card_of(run, tmp_path / "run", {key: run.result[key] for key in required})
    assert "training documents | not recorded" in least and "Machine: not recorded" in least
    hostile = "<script>x</script> [y](z) | `\x1b[2J` {{ 1 }}\n# Title"
    for value in (hostile, 1e300, True, [hostile], {"p50": hostile, "test": {"documents": hostile}}):
        result = {key: run.result[key] if key in required else value for key in {**run.result, "name": None}}
        card = card_of(run, tmp_path / "run", {**result, "split_hash": hostile})
        assert "<" not in card and "\x1b" not in card and "\n# Title" not in card


@pytest.mark.slow
def test_card_says_that_the_encoder_may_have_learned_from_test_documents(finished: Path, tmp_path: Path) -> None:
    run = imdbcls.load_run(finished)
    for same, words in (
        (True, "evaluated once, at the end |"),
        (
            None,
            "at the end; the encoder was trained in an earlier run that did not record which documents it held out |",
        ),
        (False, "at the end; the encoder was trained in an earlier run that held out other documents, so it may have"),
    ):
        result = {**run.result, "encoder_source": {"run": "mlm-s0", "same_splits": same}}
        assert words in card_of(run, tmp_path / "run", result)


def test_card_names_the_recipe_of_a_run() -> None:
    choices = ("backbone.freeze=1", "backbone.reinit_layers=1", "loss.dropout_samples=8", "trainer.swa_start=0.5")
    found = settings(imdbcls.compose("backbone=minilm", *choices))
    assert found.endswith("frozen layers: 1, re-initialized layers: 1, dropout samples: 8, stochastic weight averaging")


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", [True, False])
def test_card_names_the_base_model_of_pretrained_weights(pretrained: bool, finished: Path, tmp_path: Path) -> None:
    run = imdbcls.load_run(finished)
    config = imdbcls.compose("backbone=minilm", f"backbone.pretrained={str(pretrained).lower()}")
    card = card_of(replace(run, config=config), tmp_path / "run", dict(run.result))
    metadata = yaml.safe_load(card.split("---\n", 2)[1])
    expected = {"base_model": "sentence-transformers/all-MiniLM-L6-v2", "license": "apache-2.0"} if pretrained else {}
    assert {key: value for key, value in metadata.items() if key in ("base_model", "license")} == expected
    assert ("The encoder minilm was trained from random weights" in card) != pretrained
    assert ("sentence-transformers/" in card) == pretrained


@pytest.mark.slow
def test_card_names_the_metric_that_decides_the_comparison(finished: Path, tmp_path: Path) -> None:
    from statsmodels.stats.proportion import proportion_confint

    run = imdbcls.load_run(finished)
    group: dict[str, Any] = {"name": "lstm", "rank": 2, "seeds": [0, 1], "runs": [{"name": run.result["name"]}]}
    group["metrics"] = {"test/f1": {"mean": 0.8, "low": 0.7, "high": 0.9}, "test/accuracy": {"mean": 0.6}}
    pairs = [{"a": "lstm", "b": "cls", "verdict": "No difference was found."}]
    content = {"study": "heads", "headline": "A tie.", "metric": "test/f1", "groups": [group], "pairs": pairs}
    comparison = tmp_path / "comparison.json"
    comparison.write_text(json.dumps(content))
    card = card_of(run, tmp_path / "run", dict(run.result))
    assert "compared by macro F1; rank of this group: 2" in card and "- No difference was found." in card
    assert "mean macro F1 of lstm over 2 seeds: 80.00%" in card and "70.00% to 90.00%" in card
    accuracy, documents = run.result["test/accuracy"], run.result["test_documents"]
    low, high = proportion_confint(round(accuracy * documents), documents, method="wilson")
    assert f"(95 % interval over documents: {low:.2%} to {high:.2%})" in card
    group["rank"] = 1e300
    comparison.write_text(json.dumps(content))
    assert "was not compared with other heads" in card_of(run, tmp_path / "run", dict(run.result))


def test_failed_rename_keeps_the_earlier_export(tmp_path: Path) -> None:
    output, new = tmp_path / "out", tmp_path / "scratch" / "export"
    output.mkdir()
    (output / "README.md").write_text("earlier")
    with pytest.raises(FileNotFoundError):
        put_in_place(new, output)
    assert (output / "README.md").read_text() == "earlier" and list(tmp_path.iterdir()) == [output]
    new.mkdir(parents=True)
    put_in_place(new, output)
    assert list(output.iterdir()) == []
    shutil.rmtree(new.parent)
    assert list(tmp_path.iterdir()) == [output]


def test_configs_name_no_code_of_another_repository() -> None:
    code = {"auto_map": {"AutoTokenizer": ["other/repository--x.X", None]}, "custom_pipelines": {"a": {"impl": "x.X"}}}
    assert without_code({**code, "text_config": {**code, "size": 2}, "list": [code]}) == {
        "text_config": {"size": 2},
        "list": [{}],
    }
    tokenizer = SimpleNamespace(model_max_length=64, truncation_side="left", padding_side="right")
    assert tokenizer_config({**code, "max_length": 3, "model_max_length": 8}, tokenizer) == vars(tokenizer)


def test_model_over_the_limit_of_an_onnx_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    member = SimpleNamespace(model=torch.nn.Linear(9, 9))
    source: Any = SimpleNamespace(members=[member], description="head=cls on backbone=large")
    monkeypatch.setattr("onnx.checker.MAXIMUM_PROTOBUF", 4 * 89)
    with pytest.raises(imdbcls.UserError, match=r"backbone=large need 0\.0 GB, and an ONNX file is limited to 2 GB"):
        onnx_file.write_onnx(source, Path("unused"))
