"""Values in the syntax of a W&B sweep agent are read as the values that the sweep chose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import Launch

from imdbcls.config.sweep_values import from_sweep_agent


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")


@pytest.fixture
def agent_arguments() -> Callable[[dict[str, Any]], list[str]]:
    """Return a function that returns what the real agent passes for `${args_no_hyphens}`."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    def arguments(parameters: dict[str, Any]) -> list[str]:
        return create_sweep_command_args({"args": {key: {"value": value} for key, value in parameters.items()}})[
            "args_no_hyphens"
        ]

    return arguments


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        ("lr=3e-05", ["lr=3e-05"]),
        ("lr=0.00012345678", ["lr=0.00012345678"]),
        ("batch_size=16.0", ["batch_size=16"]),
        ("trainer.patience=None", ["trainer.patience=null"]),
        ("backbone.freeze=True", ["backbone.freeze=true"]),
        ("head=lstm", ["head=lstm"]),
        ("tracker.tags=['a', \"it's\"]", ['tracker.tags=["a", "it\'s"]']),
        ("optimizer.betas=[0.9, 1.0]", ["optimizer.betas=[0.9, 1]"]),
        ("optimizer={'layer_decay': 0.9, 'head_lr': 5.0}", ["optimizer.layer_decay=0.9", "optimizer.head_lr=5"]),
        ("data={'source': {'x': None}, 'name': 'a b'}", ["data.source.x=null", "data.name=a b"]),
        ("loss.class_weights={'negative': 2.0}", ["loss.class_weights={'negative': 2.0}"]),
        ("loss={'class_weights': {'negative': 2.0}}", ["loss.class_weights={'negative': 2.0}"]),
        ("--multirun", ["--multirun"]),
        ("study=(1, 2)", ["study=(1, 2)"]),
    ],
)
def test_values_of_an_agent(passed: str, expected: list[str], sweep: None) -> None:
    assert from_sweep_agent(passed) == expected


def test_outside_a_sweep_nothing_changes() -> None:
    for argument in ("trainer.patience=None", "optimizer={'head_lr': 5.0}", "batch_size=16.0"):
        assert from_sweep_agent(argument) == [argument]


def test_the_command_reads_what_the_agent_passes(
    agent_arguments: Callable[[dict[str, Any]], list[str]], launch: Launch, tmp_path: Path
) -> None:
    parameters = {
        "lr": 3e-05,
        "batch_size": 16.0,
        "head": "lstm",
        "deterministic": True,
        "trainer.patience": None,
        "optimizer": {"layer_decay": 0.95, "betas": [0.9, 0.98]},
        "head.bidirectional": False,
        "tracker.tags": ["a", "b c"],
    }
    arguments = agent_arguments(parameters)
    assert "optimizer={'layer_decay': 0.95, 'betas': [0.9, 0.98]}" in arguments
    shown = launch(tmp_path, "train", *arguments, "--cfg", "job", WANDB_SWEEP_ID="abc123")
    config = yaml.safe_load(shown.stdout)
    assert (config["lr"], config["batch_size"], config["head"]["_target_"]) == (
        3e-05,
        16,
        "imdbcls.heads.lstm.LSTMHead",
    )
    assert (config["deterministic"], config["trainer"]["patience"]) == (True, None)
    assert (config["optimizer"]["layer_decay"], config["optimizer"]["betas"]) == (0.95, [0.9, 0.98])
    assert (config["head"]["bidirectional"], config["tracker"]["tags"]) == (False, ["a", "b c"])
