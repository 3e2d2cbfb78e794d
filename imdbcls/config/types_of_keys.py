"""Look up the type of a config key in the schema, or in the constructor that its section's `_target_` names."""

from collections.abc import Mapping
from typing import Annotated, Any

from imdbcls.config.schema import Config, DataConfig
from imdbcls.config.section import Built, Section, is_section, section_type
from imdbcls.config.signatures import own_signature


def type_of_key(key: str, values: Mapping[str, Any]) -> Any:
    """Return the type of a dotted key with its constraints; None for a section or an unknown type.

    `values` is a nested config, resolved or not. Its `_target_`s name the constructors whose arguments are keys.
    """
    section: type[Section] = Config
    node: Any = values
    *parents, last = key.split(".")
    for part in parents:
        kind = section_type(section, part)
        if kind is None or not isinstance(node, Mapping):
            return None
        section, node = kind, node.get(part)
    field = section.model_fields.get(last)
    if field is not None:
        if is_section(field.annotation):
            return None
        return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    if issubclass(section, DataConfig):
        return type_of_argument(last, node.get("source") if isinstance(node, Mapping) else None)
    return type_of_argument(last, node) if issubclass(section, Built) else None


def type_of_argument(name: str, node: Any) -> Any:
    target = node.get("_target_") if isinstance(node, Mapping) else None
    signature = own_signature(target) if isinstance(target, str) else None
    parameter = signature.parameters.get(name) if signature is not None else None
    return None if parameter is None or parameter.hint is Any else parameter.hint
