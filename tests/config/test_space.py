"""The search space and the keys of a tuning study: what is allowed, and one sentence for each mistake."""

from pathlib import Path

import pytest

from imdbcls.config.command_keys import names_of, read_command_keys
from imdbcls.config.options import config_keys
from imdbcls.config.space import Choices, Interval, TuningGrid, read_tuning
from imdbcls.config.tune_settings import TuneSettings

TUNE = "tune.yaml"
DEFAULT = ("lr=tag(log,interval(5e-6,2e-4))", "optimizer.head_lr=tag(log,interval(1,100))")


def tuning(*overrides: str) -> TuningGrid:
    return read_tuning(["experiment=quickstart", *overrides], None, DEFAULT, names_of(TuneSettings))


def test_each_key_of_tune_yaml_is_declared_described_and_has_one_default() -> None:
    keys = [each for each in config_keys(TUNE) if not each.is_section]
    assert {each.key for each in keys} == set(names_of(TuneSettings))
    assert all(len(each.description) > 5 for each in config_keys(TUNE))
    settings = read_command_keys([], TuneSettings, TUNE).settings
    assert settings is not None and settings.budget.max_trials == 20 and settings.space.overrides == DEFAULT


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("budget.trials=3", "budget.hours=2"), "budget.trials=3 and budget.hours=2 cannot be combined"),
        (("storage=tuning.db",), "storage=tuning.db must be the URL of an SQL database"),
        (("pruner=medan",), "pruner=medan is not one of median, asha, none"),
        (("budget.trials=0",), "budget.trials=0 is not a whole number"),
    ],
)
def test_a_wrong_setting_is_refused(overrides: tuple[str, ...], sentence: str) -> None:
    (mistake,) = read_command_keys(overrides, TuneSettings, TUNE).mistakes
    assert sentence in mistake


def test_groups_are_compared_and_keys_are_searched() -> None:
    found = tuning(
        "head=cls,lstm", "lr=tag(log,interval(1e-5,1e-3))", "batch_size=16,32", "epochs=range(1,5)", "warmup=0"
    )
    assert not found.mistakes and [group.name for group in found.groups] == ["cls", "lstm"]
    assert found.space == (
        Choices("batch_size", ("16", "32")),
        Interval("epochs", 1, 4, is_whole=True, step=1),
        Interval("lr", 1e-5, 1e-3, log=True),
    )
    assert found.space[1].override(3) == "epochs=3" and found.space[2].override(2e-5) == "lr=2e-05"
    assert found.groups[1].overrides == ("experiment=quickstart", "head=lstm", "warmup=0")


def test_whole_numbers_and_added_keys() -> None:
    found = tuning("epochs=int(interval(1,5))", "++head.dropout=0.1,0.2")
    assert not found.mistakes, found.mistakes
    assert found.space == (Interval("epochs", 1, 5, is_whole=True), Choices("head.dropout", ("0.1", "0.2"), "++"))
    assert found.space[1].override("0.2") == "++head.dropout=0.2"


def test_default_space_applies_if_no_key_is_swept_except_for_keys_that_are_set() -> None:
    assert [each.key for each in tuning("head=cls,lstm").space] == ["lr", "optimizer.head_lr"]
    assert [each.key for each in tuning("head=cls,lstm", "lr=1e-3").space] == ["optimizer.head_lr"]
    assert [each.key for each in tuning("warmup=0.1,0.2").space] == ["warmup"]
    assert "nothing to tune" in tuning("lr=1e-3", "optimizer.head_lr=2").mistakes[0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=0,1", "seed=0,1: a seed is not tuned."),
        ("data=sample,imdb", "trials with different values of data cannot be compared"),
        ("data.validation_limit=10,20", "trials with different values of data.validation_limit cannot be compared"),
        ("metric=accuracy,f1", "trials with different values of metric cannot be compared"),
        ("tracker=none,wandb", "tracker=none,wandb: tracker cannot change a result."),
        ("jobs=1,2", "jobs=1,2: jobs cannot change a result."),
        ("lr=interval(1e-3,1e-5)", "at least two values are needed"),
        ("warmup=tag(log,interval(0,0.5))", "tag(log, …) needs interval(low,high) with low above 0"),
        ("warmup=tag(logg,interval(0.1,0.5))", "the only allowed tag is log"),
        ("epochs=interval(1,5)", "epochs=1.0 is not a whole number"),
        ("lr=interval(-1,1)", "lr=-1.0 is not a number above 0"),
        ("hydra.sweeper=optuna", "Hydra does not run the jobs of this command"),
        ("lrr=1", "lrr: there is no such key; closest: lr"),
        ("trainer.score_test_each_epoch=true", "tuning never evaluates the test split"),
        ("study=" + "a" * 98, "is too long"),
    ],
)
def test_a_sweep_that_cannot_be_tuned_is_refused(override: str, sentence: str) -> None:
    from imdbcls.config.space import wrong_study_name

    found = tuning("head=cls,lstm", override)
    assert sentence in " ".join([*found.mistakes, *wrong_study_name(found.groups)])


def test_a_key_that_only_some_groups_have_is_refused() -> None:
    found = tuning("head=cls,mean", "head.dropout=0.1,0.2", "seed=0,1")
    assert len(found.mistakes) == 2 and "head=mean has no key dropout" in found.mistakes[0]


def test_a_folder_of_own_yaml_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nlr: 1e-3\n")
    found = read_tuning(["experiment=mine", "head=cls,lstm", "data=sample"], str(tmp_path), DEFAULT, ())
    assert not found.mistakes, found.mistakes
    assert found.groups[0].config.lr == 1e-3


def test_an_experiment_that_sweeps_a_key_has_its_own_search_space(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    start = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      head: cls,lstm\n      seed: 0,1\n"

    file.write_text(f"{start}      lr: 0.001,0.003\n      batch_size: 8,16\n")
    found = read_tuning(["experiment=mine"], str(tmp_path), DEFAULT, ())
    assert not found.mistakes
    assert found.space == (Choices("batch_size", ("8", "16")), Choices("lr", ("0.001", "0.003")))

    file.write_text(f"{start}      lr: 1e-3\n")
    found = read_tuning(["experiment=mine"], str(tmp_path), DEFAULT, ())
    assert found.space == (Interval("optimizer.head_lr", 1, 100, is_whole=False, log=True),)
    assert all(group.config.lr == 1e-3 for group in found.groups)
