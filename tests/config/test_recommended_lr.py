"""The backbone sets the default learning rate. With a frozen encoder, a warning recommends a higher rate."""

import pytest

from imdbcls.config.overrides import compose
from imdbcls.runs.group_label import group_label
from imdbcls.runs.identity import config_hash, run_name
from imdbcls.training.report import low_rate_warning


@pytest.mark.parametrize(
    ("backbone", "rate"), [("minilm", 1e-4), ("roberta-base", 2e-5), ("roberta-large", 1e-5), ("tiny", 2e-5)]
)
def test_the_default_lr_is_that_of_the_backbone(backbone: str, rate: float) -> None:
    config = compose([f"backbone={backbone}", "data=sample"])
    assert config.lr == config.optimizer.arguments["lr"] == rate
    assert "lr=" not in group_label(config)
    assert run_name(config) == run_name(compose([f"backbone={backbone}", "data=sample", f"lr={rate}"]))


def test_the_recommendation_changes_no_run_with_its_own_lr() -> None:
    choices = ["backbone=minilm", "data=sample", "lr=3e-5"]
    config = compose(choices)
    assert config.lr == 3e-5 and "lr=3e-05" in group_label(config)
    assert config_hash(config) == config_hash(compose([*choices, "backbone.recommended_lr=1e-3"]))
    assert compose(["backbone=minilm", "data=sample", "backbone.recommended_lr=1e-3"]).lr == 1e-3


@pytest.mark.parametrize(
    ("choices", "warned"),
    [
        (["backbone.freeze=true"], True),
        (["backbone.freeze=true", "lr=5e-5"], True),
        (["backbone.freeze=true", "lr=1e-3"], False),
        (["backbone.freeze=true", "lr=5e-5", "optimizer.head_lr=20"], False),
        (["backbone.freeze=true", "optimizer.lr=1e-3"], False),
        (["backbone.freeze=true", "lr=1e-3", "optimizer.lr=5e-5"], True),
        (["backbone.freeze=3"], False),
        ([], False),
    ],
)
def test_a_low_lr_for_a_frozen_encoder_is_a_warning(choices: list[str], warned: bool) -> None:
    warning = low_rate_warning(compose(["backbone=minilm", "data=sample", *choices]))
    assert (warning is not None) == warned
    if warning is not None:
        assert "trains only the head, with a learning rate of" in warning and warning.endswith("lr=1e-3.")
        assert ("try optimizer.lr=1e-3." in warning) == any(each.startswith("optimizer.lr=") for each in choices)
