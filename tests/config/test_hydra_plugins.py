"""Test the settings of sweepers that optimise the value of a run, without the plugins themselves."""

from enum import Enum
from typing import Any

import pytest
from omegaconf import OmegaConf

from imdbcls.config.allowed_targets import foreign_parts_of_hydra
from imdbcls.config.hydra_plugins import is_search, wrong_settings_of_search


class Direction(Enum):  # a copy of the plugin's class
    minimize = 1
    maximize = 2


def mistakes(
    name: str, section: dict[str, Any], *, metric: str = "accuracy", jobs: int = 1, swept: str = ""
) -> list[str]:
    hydra = OmegaConf.create({"runtime": {"choices": {"hydra/sweeper": name}}, "sweeper": section})
    return list(wrong_settings_of_search(hydra, metric, jobs, swept.split()))


@pytest.mark.parametrize(
    ("metric", "direction", "needed"),
    [
        ("accuracy", Direction.minimize, "maximize"),
        ("auroc", "minimize", "maximize"),
        ("f1", ["maximize", "minimize"], "maximize"),
        ("f1", "max", "maximize"),
        ("loss", "maximize", "minimize"),
        ("brier", Direction.maximize, "minimize"),
        ("accuracy", "maximize", None),
        ("loss", Direction.minimize, None),
    ],
)
def test_direction_must_fit_the_metric(metric: str, direction: Any, needed: str | None) -> None:
    found = mistakes("optuna", {"direction": direction}, metric=metric)
    assert len(found) == (needed is not None)
    if needed is not None:
        assert f"does not fit metric={metric}" in found[0] and found[0].endswith(f"hydra.sweeper.direction={needed}.")


def test_direction_of_the_other_sweepers() -> None:
    ax = {"ax_config": {"experiment": {"minimize": True}}}
    assert mistakes("ax", ax) == [
        "hydra.sweeper.ax_config.experiment.minimize=true does not fit metric=accuracy: higher values are better, so "
        "set hydra.sweeper.ax_config.experiment.minimize=false."
    ]
    assert mistakes("ax", ax, metric="loss") == []
    assert len(mistakes("nevergrad", {"optim": {"maximize": True}}, metric="brier")) == 1
    assert mistakes("nevergrad", {"optim": {"maximize": True}}, metric="f1") == []


def test_search_has_one_metric_and_no_parallel_jobs() -> None:
    right = {"direction": "maximize"}
    assert mistakes("optuna", right, swept="lr head") == []
    (found,) = mistakes("optuna", right, swept="lr metric")
    assert found.startswith("metric has several values")
    (found,) = mistakes("optuna", right, jobs=2)
    assert found.startswith("jobs=2 has no effect with hydra/sweeper=optuna")


def test_only_the_default_sweeper_does_not_search() -> None:
    basic = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    optuna = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    assert not is_search(OmegaConf.create({"_target_": basic}))
    assert is_search(OmegaConf.create({"_target_": optuna}))


def test_samplers_of_optuna_are_allowed_only_as_samplers() -> None:
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": 0}
    nested = {"_target_": "optuna.samplers.CmaEsSampler", "independent_sampler": sampler}
    assert list(foreign_parts_of_hydra({"sweeper": {"sampler": sampler}})) == []
    assert list(foreign_parts_of_hydra({"sweeper": {"sampler": nested, "custom_search_space": None}})) == []
    for refused in (
        {"sweeper": {"sampler": {"_target_": "os.system"}}},
        {"sweeper": {"sampler": {"_target_": "optuna.samplers.TPESampler.os.system"}}},
        {"sweeper": {"sampler": {"_target_": "optuna.samplers._tpe.os.system"}}},
        {"sweeper": {"sampler": {**sampler, "constraints_func": sampler}}},
        {"sweeper": {"storage": {"_target_": "optuna.storages.RedisStorage"}}},
        {"sweeper": {"custom_search_space": "os.system"}},
        {"launcher": sampler},
    ):
        (found,) = foreign_parts_of_hydra(refused)
        assert "is refused" in found
