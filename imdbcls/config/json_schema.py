"""The JSON schema of a config file, for editors that complete and check YAML.

Types and ranges come from the typed schema and from the constructors of the shipped choices. Defaults and descriptions
come from `conf/`. A file may set any subset of the keys, so no key is required.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import yaml
from omegaconf import OmegaConf

from imdbcls.config.allowed_values import adapter_of
from imdbcls.config.options import CONF, config_keys, groups
from imdbcls.config.schema import Config
from imdbcls.config.section import Built, Section, is_section
from imdbcls.config.signatures import own_signature
from imdbcls.config.types_of_keys import type_of_key

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INTERPOLATION = {"type": "string", "pattern": r"\$\{.*\}"}  # `${lr}` may replace any value


def json_schema() -> dict[str, Any]:
    """Return the schema of an experiment file, such as `experiment/mine.yaml`, as nested built-in values."""
    descriptions = {each.key: each.description for each in config_keys()}
    defaults = {each.key: default_of(each.default) for each in config_keys() if each.default is not None}
    schema = section_schema(Config, "", descriptions, defaults)
    schema["properties"]["defaults"] = defaults_list()
    schema["properties"]["hydra"] = {"type": "object", "description": "Hydra's own keys: mode and sweeper.params."}
    return {"$schema": DIALECT, "title": "imdbcls config", **schema}


def default_of(text: str) -> Any:
    """Read a default as Hydra does: `2e-5` is a number."""
    content: Any = OmegaConf.to_container(OmegaConf.create(f"default: {text}"), resolve=False)
    return content["default"]


def section_schema(
    section: type[Section], prefix: str, descriptions: dict[str, str], defaults: dict[str, Any]
) -> dict[str, Any]:
    """Return the schema of a section; `prefix` is the section's dotted name with a dot at the end."""
    properties: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        kind = field.annotation
        if is_section(kind):
            found = section_schema(kind, f"{key}.", descriptions, defaults)
        else:
            found = value_schema(type_of_key(f"{prefix}{name}", {}))
        found |= {"description": descriptions[key]} if descriptions.get(key) else {}
        found |= {"default": defaults[key]} if key in defaults else {}
        properties[field.alias or name] = found
    takes_arguments = issubclass(section, Built) or section.model_config.get("extra") == "allow"
    if takes_arguments:
        properties = {**argument_schemas(prefix.rstrip(".")), **properties}
    if section.member is not None:
        properties |= member_schemas(prefix.rstrip("."))
    return {"type": "object", "properties": properties, "additionalProperties": takes_arguments}


def argument_schemas(place: str) -> dict[str, Any]:
    """Return the schemas of the constructor arguments that appear in the YAML files of a group's shipped choices."""
    found: dict[str, list[Any]] = {}
    for node in choice_nodes(place.split(".")[0]):
        target = node.get("source", {}).get("_target_") if place.startswith("data") else node.get("_target_")
        signature = own_signature(target) if isinstance(target, str) else None
        for name, value in (node.get("source", {}) if place == "data.source" else node).items():
            if name.startswith("_") or name == "defaults" or isinstance(value, dict):
                continue
            parameter = signature.parameters.get(name) if signature is not None else None
            schema = value_schema(parameter.hint) if parameter is not None else {}
            if schema not in found.setdefault(name, []):
                found[name].append(schema)
    return {name: {} if {} in each else each[0] if len(each) == 1 else {"anyOf": each} for name, each in found.items()}


def member_schemas(group: str) -> dict[str, Any]:
    """Return the schemas of the sections that the shipped choices of a group add, such as `tracker.wandb`."""
    found = {}
    for name, node in ((name, node) for choice in choice_nodes(group) for name, node in choice.items()):
        signature = own_signature(node["_target_"])
        assert signature is not None, f"{group}.{name} is not a class of imdbcls"
        arguments = {key: value_schema(signature.parameters[key].hint) for key in node if not key.startswith("_")}
        found[name] = {"type": "object", "properties": arguments}
    return found


def choice_nodes(group: str) -> Iterator[dict[str, Any]]:
    for choice in groups().get(group, {}):
        yield yaml.safe_load(files(CONF).joinpath(group, f"{choice}.yaml").read_text(encoding="utf-8")) or {}


def value_schema(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of a type; empty, which allows anything, if the type is unknown."""
    adapter = adapter_of(hint) if hint is not None else None
    if adapter is None:
        return {}
    schema = adapter.json_schema()
    if schema in ({}, {"type": "string"}):
        return schema
    return {"anyOf": [*schema.pop("anyOf", [schema] if schema else []), INTERPOLATION]}


def defaults_list() -> dict[str, Any]:
    """Return the schema of Hydra's defaults list, which selects a choice for each group."""
    choices = {group: sorted(names) for group, names in groups().items()}
    overrides = {f"override /{group}": {"enum": names} for group, names in choices.items()}
    entry = {"type": "object", "properties": overrides, "minProperties": 1, "maxProperties": 1}
    return {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, entry]},
        "description": "The choice for each config group.",
    }
