"""Sweeps in Hydra's syntax become groups: one for each combination of swept values except seeds."""

from pathlib import Path

import pytest

from imdbcls.config.command_keys import names_of
from imdbcls.config.grid import Grid, read_grid
from imdbcls.config.overrides import compose
from imdbcls.config.study_settings import StudySettings
from imdbcls.runs.identity import group_hash, run_name

TINY = ("backbone=tiny", "data=sample")


def grid(*overrides: str, folder: Path | None = None) -> Grid:
    place = None if folder is None else str(folder)
    return read_grid([*TINY, *overrides], place, names_of(StudySettings), "set seeds.max.")


def test_each_combination_is_a_group_with_the_hash_of_its_runs() -> None:
    found = grid("head=cls,lstm", "lr=1e-5,3e-5", "epochs=1")
    assert found.mistakes == ()
    assert [group.name for group in found.groups] == [
        "cls lr=1e-05",
        "cls lr=3e-05",
        "lstm lr=1e-05",
        "lstm lr=3e-05",
    ]
    last = found.groups[-1]
    for seed in (0, 7):
        run = compose([*TINY, "head=lstm", "lr=3e-5", "epochs=1", f"seed={seed}"])
        assert last.config_of(seed) == run and run_name(last.config_of(seed)) == run_name(run)
        assert last.group_hash == group_hash(run)
    assert compose(last.overrides) == last.config


def test_every_kind_of_hydras_sweeps_is_read() -> None:
    found = grid("head=choice(cls,mean)", "epochs=range(1,3)", "+optimizer.amsgrad=true,false")
    assert found.mistakes == () and len(found.groups) == 8
    assert found.groups[0].name == "cls epochs=1 optimizer.amsgrad=true"


def test_the_seeds_of_an_experiment_are_ignored() -> None:
    found = grid("experiment=heads")
    assert [group.name for group in found.groups] == [
        *("cls", "weight_avg", "lstm", "transformer", "attention", "mean", "max"),
    ]
    assert {group.config.study for group in found.groups} == {"heads"}
    assert [group.name for group in grid("experiment=heads", "head=cls,mean").groups] == ["cls", "mean"]


def test_an_experiment_in_the_users_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# Mine.\nhydra:\n  sweeper:\n    params:\n      lr: 1e-4,2e-4\n      seed: 0,1\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    found = grid("experiment=mine", folder=tmp_path)
    assert [group.name for group in found.groups] == ["cls lr=0.0001", "cls lr=0.0002"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=0,1", "seed=0,1: set seeds.max."),
        ("seed=3", "seed=3: set seeds.max."),
        ("hydra.verbose=true", "hydra.verbose=true: Hydra does not run the jobs of this command"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: Hydra does not run the jobs of this command"),
        ("sedes.max=3", "sedes.max: there is no such key; closest: seeds.max"),
        ("lr=1e-5,abc", "lr=abc is not a number above 0."),
        ("lr=interval(1e-5,1e-4)", "lr=interval(1e-5,1e-4): an interval cannot be swept"),
        ("jobs=1,2", "head=cls jobs=2 and backbone=tiny data=sample head=cls jobs=1 describe the same runs"),
        ("study=a,b", "backbone=tiny data=sample head=cls study=b and"),
        ("data.order_seed=0,1", "backbone=tiny data=sample head=cls data.order_seed=1 and"),
        ("experiment=null", "experiment=null: leave out experiment"),
    ],
)
def test_each_mistake_gives_a_sentence(override: str, sentence: str) -> None:
    found = grid("head=cls", override)
    assert found.groups == () and len(found.mistakes) == 1 and sentence in found.mistakes[0], found.mistakes


def test_mistakes_in_later_combinations_are_found_before_training() -> None:
    found = grid("head=cls,weight_avg", "+head.num_positions=100", "lrr=1")
    assert found.groups == () and found.mistakes
    found = grid("backbone.freeze=false,true", "backbone.lora_rank=null,8", "head=cls")
    assert found.groups == () and "cannot be combined" in found.mistakes[0]
