"""Optional packages of trackers are checked with the rest of the config, before PyTorch is imported."""

import pytest

from imdbcls.config import packages
from imdbcls.config.overrides import examine
from imdbcls.config.signatures import own_definitions

CHOSEN = ["tracker=[tensorboard,mlflow,wandb]", "lr=0", "tracker.wandb.finish_second=3", "backbone=tiny", "data=sample"]


def test_missing_packages_are_reported_with_all_other_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    assert examine(CHOSEN, "run").mistakes == [
        "tracker.wandb.finish_second: there is no such key; closest: tracker.wandb.finish_seconds, "
        "tracker.mlflow.finish_seconds, tracker.wandb.connect_seconds.",
        "lr=0 is not a number above 0.",
        "tracker=tensorboard needs the package tensorboard: pip install 'imdbcls[tensorboard]', or leave tensorboard "
        "out.",
        "tracker=mlflow needs the package mlflow: pip install 'imdbcls[mlflow]', or leave mlflow out.",
    ]
    unused = ["tracker=[tensorboard,mlflow]", "tracker.mode=disabled", "backbone=tiny", "data=sample"]
    assert examine(unused, "run").mistakes == []


def test_installed_packages_are_no_mistake() -> None:
    assert examine(["tracker=[tensorboard,mlflow]", "backbone=tiny", "data=sample"], "run").mistakes == []
    assert packages.installed_version("tensorboard") is not None
    assert packages.installed_version("nothing-of-this-name") is None


def test_the_trackers_with_packages_exist() -> None:
    for target in packages.OF_TRACKERS:
        module, _, name = target.rpartition(".")
        assert name in own_definitions(module)
