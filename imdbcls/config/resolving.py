"""Resolve a composed config: replace interpolations with values, and convert values to the types of their keys."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imdbcls.config.allowed_values import allows, takes_text
from imdbcls.config.types_of_keys import type_of_key
from imdbcls.errors import UserError

# Sections in which an argument of unknown type is assumed not to be a string.
SECTIONS_OF_NUMBERS = ("head", "loss", "optimizer", "schedule")


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the composed config as nested built-in values; raise UserError for a missing or unusable value."""
    try:
        config = OmegaConf.to_container(decoded(cfg), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key} has no usable value: {str(error.msg).splitlines()[0]}.") from error
    assert isinstance(config, dict)
    plain: dict[str, Any] = {str(key): value for key, value in config.items()}
    numbers_to_strings(plain)
    loss = plain.get("loss")
    if isinstance(loss, Mapping) and "class_weights" in loss:
        plain["loss"] = {**loss, "class_weights": by_label(loss["class_weights"])}
    return plain


def numbers_to_strings(values: dict[str, Any]) -> None:
    """Convert whole numbers to strings, in place, if their key allows only strings.

    The name of a study or a column may be 2024, for example.
    """
    for path, value in list(flatten(values)):
        if type(value) is int:
            hint = type_of_key(".".join(map(str, path)), values)
            if hint is not None and takes_text(hint) and not allows(value, hint):
                section = values
                for part in path[:-1]:
                    section = section[part]
                section[path[-1]] = str(value)


def decoded(cfg: DictConfig) -> DictConfig:
    """Return the config with `${oc.env:X}` converted to a number, a boolean or null if its key does not allow strings.

    The value of an environment variable is always a string.
    """
    values = plain_values(cfg)
    found = [path for path, value in flatten(values) if is_variable(value) and wants_number(path, values)]
    if not found:
        return cfg
    copied = cfg.copy()
    with open_dict(copied):
        for path in found:
            node: Any = copied
            for part in path[:-1]:
                node = node[part]
            text = node[path[-1]]  # raises if the variable is not set
            value = number_or_text(text) if isinstance(text, str) else text
            if not isinstance(value, str):  # OmegaConf would resolve a string such as ${lr}
                node[path[-1]] = value
    return copied


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Return a config as nested built-in values with unresolved interpolations."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a nested config; raise KeyError if the key does not exist."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def flatten(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each value that is not a mapping, with the keys that lead to it; keys may be numbers or contain dots."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flatten(value, (*path, key))
    else:
        yield path, node


def is_variable(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${oc.env:") and value.endswith("}")


def wants_number(path: tuple[Any, ...], values: Mapping[str, Any]) -> bool:
    """Return whether a key does not allow strings. If the type of the key is unknown, its section decides."""
    hint = type_of_key(".".join(map(str, path)), values)
    return path[0] in SECTIONS_OF_NUMBERS if hint is None else not takes_text(hint)


def number_or_text(text: str) -> Any:
    """Convert a string that spells a number, a boolean or null; return any other string unchanged."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(text.strip().lower(), text)


def by_label(weights: Any) -> Any:
    """Return class weights with string labels, as in the data: {0: 1, true: 5} becomes {"0": 1, "true": 5}.

    A mapping may also be given as a JSON or YAML string, because Hydra's command-line grammar does not accept mapping
    keys that are quoted or not ASCII. Raise UserError if two keys are the same label.
    """
    if isinstance(weights, str) and weights.lstrip().startswith("{"):
        weights = parsed_mapping(weights)
    if not isinstance(weights, Mapping):
        return weights
    from imdbcls.data.documents import label_name  # imported here because it imports numpy

    named: dict[str, Any] = {}
    for key, weight in weights.items():
        label = "null" if key is None else label_name(key)
        if label in named:
            raise UserError(f"loss.class_weights contains the class {label!r} twice.")
        named[label] = weight
    return named


def parsed_mapping(text: str) -> Any:
    """Parse a mapping in JSON or YAML; return the string unchanged if it is neither."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text
