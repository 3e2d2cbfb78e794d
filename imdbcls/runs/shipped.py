"""Read the values in the shipped YAML files: `conf/config.yaml`, and the file of each choice, such as `head=lstm`.

Interpolations are not resolved: `optimizer.lr` is the string `${lr}`. Files of the group `experiment` are not read.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from omegaconf import OmegaConf

NAMED = ("head", "backbone", "data")  # sections whose `name` identifies the choice
TARGETED = ("loss", "optimizer", "schedule")  # sections whose `_target_` identifies the choice


@cache
def default_choices() -> dict[str, str]:
    """Return the default choice of each group that can change a result, such as `head: cls`."""
    listed = [entry for entry in _config()["defaults"] if isinstance(entry, Mapping)]
    return {group: str(name) for entry in listed for group, name in entry.items() if group in (*NAMED, *TARGETED)}


def choices_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of the choice of each group, from the nested values of a config.

    A loss, an optimizer or a schedule that is not shipped has the name of its class or function.
    """
    return {group: choice_of(group, values[group]) for group in (*NAMED, *TARGETED)}


def choice_of(group: str, section: Mapping[str, Any]) -> str:
    """Return the choice of one group, from the values of its section."""
    if group in NAMED:
        return str(section["name"])
    target = str(section["_target_"])
    return _by_target(group).get(target, target.rpartition(".")[2])


def shipped_values(choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the nested values of a config with these choices and without overrides.

    A choice that is not shipped adds no values.
    """
    values = {key: value for key, value in _config().items() if key not in ("defaults", "hydra")}
    for group, choice in choices.items():
        values[group] = {**values.get(group, {}), **_file(group, choice)}
    return values


@cache
def _config() -> dict[str, Any]:
    return _read(files("imdbcls.conf").joinpath("config.yaml"))


@cache
def _names(group: str) -> list[str]:
    """Return the shipped choices of a group."""
    names = [path.name for path in files("imdbcls.conf").joinpath(group).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@cache
def _file(group: str, choice: str) -> dict[str, Any]:
    """Return the values of a choice, including the files in its `defaults`. Return {} if the choice is not shipped."""
    if choice not in _names(group):
        return {}
    values = _read(files("imdbcls.conf").joinpath(group, f"{choice}.yaml"))
    bases = values.pop("defaults", ())
    return {key: value for found in (*(_file(group, base) for base in bases), values) for key, value in found.items()}


@cache
def _by_target(group: str) -> dict[str, str]:
    """Map the `_target_` of each shipped choice of a group to the name of the choice."""
    return {_file(group, name)["_target_"]: name for name in _names(group)}


def _read(path: Traversable) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}
