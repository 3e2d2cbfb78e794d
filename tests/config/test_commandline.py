"""Test the arguments of a training command, and that our loader and Hydra's loader compose the same configs."""

from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import OmegaConf

from imdbcls.config.commandline import answer_command
from imdbcls.config.overrides import compose, examine, make_loader
from imdbcls.errors import UserError
from imdbcls.runtime import installation


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["head=lstm", "lr=1e-4", "head.bidirectional=true"],
        ["seed=3", "experiment=original", "+head.width=3", "~optimizer.eps", "hydra.verbose=true"],
        ["loss.class_weights={0:1,a:2}", "data.test_limit=5", "++loss.extra=[1,2]", "optimizer.betas=[0.8,0.9]"],
        ["hydra.job.chdir=true", "study=${head.name}-${seed}", "head=mean", "data=hub"],
    ],
)
def test_our_loader_composes_the_same_as_hydras(overrides: list[str]) -> None:
    """Compose twice in run mode: the second time, the loader uses the caches that it filled the first time."""
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        ours = make_loader(overrides, None)
        plain = ConfigLoaderImpl(ours.get_search_path())
        for mode in (RunMode.RUN, RunMode.MULTIRUN, RunMode.RUN):
            wanted = plain.load_configuration("config", list(overrides), mode)
            found = ours.load_configuration("config", list(overrides), mode)
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted)
            found.hydra.verbose = "altered"


def test_show_mode_allows_missing_values() -> None:
    assert examine(["data=files"], "show").mistakes == []
    assert examine(["data=files"], "run").mistakes == ["data.train has no value: set data.train=..."]
    (found,) = examine(["head=cls,mean"], "show").mistakes
    assert found == "head=cls,mean has several values: --cfg and --info show one run, so set one value."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--multirun", "--cfg", "job", "head=cls,mean"], "--multirun and --cfg cannot be combined"),
        (["hydra/launcher=joblib9"], "hydra/launcher=joblib9 is not installed: choose one of basic"),
        (["hydra/launcher=joblib"], "pip install hydra-joblib-launcher"),
        (
            ["--multirun", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"],
            "hydra/sweeper=optuna is not installed: run pip install hydra-optuna-sweeper in an environment of its own",
        ),
        (["--multirun", "hydra/sweeper=joblib"], "hydra/sweeper=joblib is not installed: choose one of basic"),
        (["--multirun", "hydra/launcher=optuna"], "hydra/launcher=optuna is not installed: choose one of basic"),
        (
            ["--multirun", "lr=interval(1e-5,1e-3)"],
            "lr=interval(1e-5,1e-3): an interval cannot be swept by Hydra's default sweeper. List values instead, such "
            "as lr=1e-5,3e-5, or choose a sweeper that optimises: hydra/sweeper=optuna.",
        ),
        (["--config-dir", "nowhere"], "--config-dir=nowhere is not a folder."),
    ],
)
def test_wrong_options_are_reported(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        answer_command(["backbone=tiny", "data=sample", *arguments] if "=" in arguments[0] else arguments)
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


def test_environment_variables_become_numbers_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RATE": "3e-4", "FAST": "False", "EPS": "1e-6", "RUN": "2024"}.items():
        monkeypatch.setenv(name, value)
    given = ("lr=${oc.env:RATE}", "backbone.fast=${oc.env:FAST}", "optimizer.eps=${oc.env:EPS}", "study=${oc.env:RUN}")
    config = compose(["backbone=tiny", "data=sample", *given])
    assert (config.lr, config.optimizer.arguments["lr"], config.optimizer.arguments["eps"]) == (3e-4, 3e-4, 1e-6)
    assert config.backbone.fast is False and config.study == "2024"
    monkeypatch.setenv("RATE", "fast")
    with pytest.raises(UserError, match="lr=fast is not a number above 0"):
        compose(["backbone=tiny", "data=sample", "lr=${oc.env:RATE}"])
    monkeypatch.setenv("RATE", "${batch_size}")  # a string from the environment is never resolved
    with pytest.raises(UserError, match=r"head.dropout=\$\{batch_size\} is not a number from 0"):
        compose(["backbone=tiny", "data=sample", "head.dropout=${oc.env:RATE}"])


def test_torchrun_is_refused_for_a_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert answer_command(["head=lstm"]) == ["head=lstm"]  # without RANK, WORLD_SIZE comes from a scheduler
    monkeypatch.setenv("RANK", "0")
    assert answer_command(["head=lstm"]) == ["head=lstm"]
    with pytest.raises(SystemExit) as caught:
        answer_command(["--multirun", "head=lstm,cls"])
    assert caught.value.code == 2 and "torchrun --nproc_per_node N -m imdbcls.train" in capsys.readouterr().err


def test_code_and_conf_of_different_clones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.require_one_installation()
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "imdbcls/runtime/installation.py"))
    with pytest.raises(UserError, match="its config files are from"):
        installation.require_one_installation()


def test_version_and_help_with_a_config_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head/mine.yaml").write_text("# A head of the user's own.\nname: mine\n")
    for arguments in (["--version"], ["--config-dir", str(tmp_path), "--help"]):
        with pytest.raises(SystemExit) as ended:
            answer_command(arguments)
        assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.startswith("imdbcls 0.") and "A head of the user's own." in shown
