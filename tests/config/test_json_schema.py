"""Test the JSON schema for editors: it accepts the shipped experiments, knows every key and refuses wrong values."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf
from support.runs import ROOT

from imdbcls.config.__main__ import main
from imdbcls.config.json_schema import json_schema
from imdbcls.config.options import config_keys
from imdbcls.config.schema import declared

EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def problems(validator: Draft202012Validator, text: str) -> list[str]:
    content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(content)]


def test_shipped_files_are_valid(validator: Draft202012Validator) -> None:
    assert len(EXPERIMENTS) >= 3
    for path in EXPERIMENTS:
        assert problems(validator, path.read_text()) == [], path.name
    assert problems(validator, (ROOT / "conf" / "config.yaml").read_text()) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("lr: fast", "lr"),
        ("epochs: 0", "epochs"),
        ("epoch: 3", ""),
        ("trainer: {patiance: 2}", "trainer"),
        ("precision: fp8", "precision"),
        ("head: {dropout: 2}", "head.dropout"),
        ("data: {delimiter: semi}", "data.delimiter"),
        ("tracker: {mode: on}", "tracker.mode"),
        ("tracker: {wandb: {finish_seconds: -1}}", "tracker.wandb.finish_seconds"),
        ("tracker: {mlflow: {connect_seconds: soon}}", "tracker.mlflow.connect_seconds"),
        ("loss: {gamma: -1}", "loss.gamma"),
        ("defaults: [{override /head: lstmm}]", "defaults.0"),
    ],
)
def test_a_mistake_is_found(text: str, place: str, validator: Draft202012Validator) -> None:
    assert problems(validator, text) == [place]


def test_interpolations_and_subsets_pass(validator: Draft202012Validator) -> None:
    assert problems(validator, "lr: ${oc.env:LR}\nhead: {dropout: '${loss.label_smoothing}'}\nloss: {r_drop: 1}") == []


def test_every_key_has_a_description_and_default() -> None:
    schema, descriptions = json_schema(), {each.key: each.description for each in config_keys()}
    for key, _, _ in declared():
        found = schema
        for part in key.split("."):
            found = found["properties"][part]
        if key in descriptions:
            assert found["description"] == descriptions[key] and "default" in found
    default = {key: schema["properties"][key]["default"] for key in ("lr", "device", "eval_batch_size")}
    assert default == {"lr": "${backbone.recommended_lr}", "device": "auto", "eval_batch_size": None}
    assert schema["properties"]["data"]["properties"]["order_seed"]["default"] == "${seed}"


def test_command_prints_the_schema(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["imdbcls.config"])
    main()
    assert json.loads(capsys.readouterr().out) == json_schema()
