"""Sections of a config: mappings with a fixed set of typed keys, and constructors with arguments."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeGuard

from pydantic import BaseModel, ConfigDict, Field

from imdbcls.config.key_types import AddedLater, Passed

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


class Section(BaseModel):
    """A section of the config: a mapping with a fixed set of keys, or with further sections under any name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    member: ClassVar[type["Section"] | None] = None  # the type of the further sections, if they are allowed

    def plain(self) -> dict[str, Any]:
        """Return the section as nested built-in values, with the same keys as in YAML."""
        return self.model_dump(by_alias=True)


class Built(Section):
    """A section that describes one object: `_target_` names its constructor, and further keys are its arguments."""

    model_config = ConfigDict(extra="allow")
    given: ClassVar[frozenset[str]] = frozenset()  # arguments that the builder adds
    by_position: ClassVar[frozenset[str]] = frozenset()  # arguments in `given` that the builder passes by position
    offered: ClassVar[frozenset[str]] = frozenset()  # arguments that the builder adds if the constructor has them

    target: Annotated[str, Field(alias="_target_")]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments from the config, keyed by parameter name."""
        extra = {key: value for key, value in (self.model_extra or {}).items() if key not in HYDRA_KEYS}
        return {**{key: getattr(self, key) for key in passed_keys(type(self))}, **extra}

    @property
    def node(self) -> dict[str, Any]:
        """The input for Hydra's `instantiate`: the target, Hydra's own keys and the arguments."""
        special = {key: value for key, value in (self.model_extra or {}).items() if key in HYDRA_KEYS}
        return {"_target_": self.target, **special, **self.arguments}


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Return whether a field's type is a section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def passed_keys(section: type[Built]) -> Iterator[str]:
    """Yield the declared keys of a section that are also arguments of its constructor."""
    return (name for name, field in section.model_fields.items() if Passed in field.metadata)


def section_type(section: type[Section], key: str) -> type[Section] | None:
    """Return the type of the inner section `key` of a section; None if the key cannot be a section."""
    field = next((each for name, each in section.model_fields.items() if key in (each.alias, name)), None)
    if field is None:
        return section.member
    return field.annotation if is_section(field.annotation) else None


def built_sections(section: Section, prefix: str = "") -> Iterator[tuple[str, Built]]:
    """Yield the dotted name and the values of every section of a config that has a `_target_`."""
    values = {**section.__dict__, **(section.model_extra or {})}
    for name, value in values.items():
        if isinstance(value, Built):
            yield f"{prefix}{name}", value
        if isinstance(value, Section):
            yield from built_sections(value, f"{prefix}{name}.")


def merged(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section with other values for some keys; inner sections are merged, too."""
    found = section.plain()
    for key, value in values.items():
        inner = getattr(section, key, None)
        found[key] = merged(inner, value) if isinstance(inner, Section) and isinstance(value, Mapping) else value
    return found


def without_marked(section: Section, values: dict[str, Any], markers: tuple[type, ...]) -> dict[str, Any]:
    """Remove the keys with any of the markers from the values of a section, in place, and return the values.

    Also remove each key that has the value in its marker `AddedLater`.
    """
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if any(marker in field.metadata for marker in markers) or AddedLater(value) in field.metadata:
            del values[field.alias or name]
        elif isinstance(value, Section):
            without_marked(value, values[name], markers)
    return values


def partial_config(
    section: type[Section], values: Mapping[str, Any], wrong: set[tuple[str, ...]], path: tuple[str, ...] = ()
) -> Any:
    """Build a section without validation and without its wrong keys; reading a wrong key raises AttributeError."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if (*path, key) not in wrong:
            kind = section_type(section, key)
            if kind is not None and isinstance(value, Mapping):
                value = partial_config(kind, value, wrong, (*path, key))
            found[key] = value
    return section.model_construct(**found)
