"""The settings of a Slurm cluster in the commands of studies and tuning."""

import pytest

from imdbcls.config.cluster import read_cluster
from imdbcls.sweeps.slurm_array import SHARED

SLURM = "hydra/launcher=submitit_slurm"


def test_the_launchers_settings_are_separated_from_the_other_overrides() -> None:
    found = read_cluster(
        ["lr=1e-5", SLURM, "head=cls,lstm", "hydra.launcher.partition=gpu", "hydra.launcher.mem_gb=16"]
    )
    assert found.others == ("lr=1e-5", "head=cls,lstm") and not found.mistakes
    assert found.settings is not None and {"_target_", "submitit_folder"}.isdisjoint(found.settings)
    given = {name: found.settings[name] for name in ("partition", "mem_gb", "timeout_min", "max_num_timeout")}
    assert given == {"partition": "gpu", "mem_gb": 16, "timeout_min": 60, "max_num_timeout": 0}
    assert set(SHARED) <= set(found.settings)


@pytest.mark.parametrize("overrides", [["lr=1e-5"], ["hydra/launcher=basic", "lr=1e-5"]])
def test_without_slurm_there_is_no_cluster(overrides: list[str]) -> None:
    found = read_cluster(overrides)
    assert found.settings is None and found.others == ("lr=1e-5",) and not found.mistakes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["hydra/launcher=joblib"],
            "this command supports only hydra/launcher=submitit_slurm",
        ),
        (["hydra.launcher.mem_gb=16"], "hydra.launcher.mem_gb=16 has no effect without hydra/launcher=submitit_slurm"),
        ([SLURM, "hydra.launcher.partiton=x"], "there is no such key; closest: hydra.launcher.partition"),
        ([SLURM, "hydra.launcher.submitit_folder=/x"], "hydra.launcher.submitit_folder=/x: there is no such key"),
        ([SLURM, "hydra.launcher.timeout_min=soon"], "Value 'soon' of type 'str' could not be converted to Integer"),
    ],
)
def test_each_mistake_gives_one_sentence(overrides: list[str], sentence: str) -> None:
    (mistake,) = read_cluster(overrides).mistakes
    assert sentence in mistake and mistake.endswith(".")
