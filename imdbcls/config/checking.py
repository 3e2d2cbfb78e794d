"""Convert a resolved config to the typed `Config`, or report all its mistakes together, before PyTorch is imported."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from omegaconf import DictConfig
from pydantic import ValidationError

from imdbcls.config.allowed_targets import (
    foreign_targets,
    interpolations,
    is_allowed,
    is_borrowed,
    locate,
    wrong_plugins,
)
from imdbcls.config.allowed_values import allows, alternatives, describe
from imdbcls.config.exclusions import EXCLUSIONS
from imdbcls.config.hints import nearest, nearest_keys
from imdbcls.config.resolving import resolve
from imdbcls.config.schema import Config, declared
from imdbcls.config.section import Built, Section, built_sections, partial_config, section_type
from imdbcls.config.signatures import ALL_LAYERS, LAST_LAYERS, Signature, own_signature, signature_of
from imdbcls.errors import UserError
from imdbcls.printable import is_unicode, shown

Path = tuple[str, ...]
CONFIG_GROUPS = ("backbone", "data", "head", "loss", "optimizer", "schedule", "tracker")  # sections chosen by name
MIN_ABBREVIATION = 3  # letters
# Advice for a user who lists several columns where a key allows only one.
ONE_COLUMN = {
    "data.label_column": (
        "a document has exactly one label; for several labels, train one run per column, or write mutually exclusive "
        "classes into one column"
    ),
}


@dataclass(frozen=True)
class Checked:
    """The result of a check: the config, without attributes for wrong keys, and an error message for each mistake."""

    config: Config
    mistakes: tuple[str, ...]


def typed(cfg: DictConfig) -> Config:
    """Resolve a composed config and check it; raise UserError with every mistake."""
    return require_valid(resolve(cfg))


def require_valid(values: Mapping[str, Any]) -> Config:
    """Convert a resolved config to a typed `Config`; raise UserError with every mistake, one per line."""
    checked = check(values)
    if checked.mistakes:
        raise UserError(*checked.mistakes)
    return checked.config


def check(values: Mapping[str, Any]) -> Checked:
    """Check a resolved config without importing its constructors or opening its files."""
    wrong_keys: list[str] = []
    values = with_string_keys(values, wrong_keys)
    wrong: dict[Path, str] = {}
    config: Config | None = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        wrong = dict(sentence_on(tuple(map(str, each["loc"])), each["type"], values) for each in error.errors())
    partial = config if config is not None else partial_config(Config, values, set(wrong))
    mistakes = [*(() if ("plugins",) in wrong else wrong_plugins(values))]
    mistakes += [*foreign_targets(values), *interpolations(values)]
    for place, node in built_sections(partial):
        with suppress(AttributeError):
            signature = own_signature(node.target)
            if signature is not None and is_allowed(place, node.target, ()):
                wrong |= wrong_arguments(place, node, signature, values)
    if wrong:
        partial = partial_config(Config, values, set(wrong))
    for rule in EXCLUSIONS:
        with suppress(*((AttributeError, TypeError) if wrong else ())):
            mistakes += rule(partial)
    return Checked(partial, tuple(dict.fromkeys([*wrong_keys, *wrong.values(), *mistakes])))


def with_string_keys(values: Mapping[Any, Any], mistakes: list[str], prefix: str = "") -> dict[str, Any]:
    """Return nested values with only those keys that are Unicode strings, and append a mistake for each other key.

    YAML also allows other keys, such as numbers.
    """
    found = {}
    for key, value in values.items():
        if not isinstance(key, str) or not is_unicode(key):
            mistakes.append(unknown(f"{prefix}{key}", value))
        else:
            is_nested = isinstance(value, Mapping)
            found[key] = with_string_keys(value, mistakes, f"{prefix}{key}.") if is_nested else value
    return found


def sentence_on(location: Path, kind: str, values: Mapping[str, Any], root: type[Section] = Config) -> tuple[Path, str]:
    """Return the path of a missing, unknown or wrong key, and an error message.

    `location` comes from pydantic: the keys that lead to the error and, within a union, the names of its members.
    """
    section = root
    node: Any = values
    for depth, part in enumerate(location, start=1):
        path = location[:depth]
        key = ".".join(path)
        field = next((each for name, each in section.model_fields.items() if part in (each.alias, name)), None)
        if kind == "missing" and depth == len(location):
            return path, f"{key} is missing."
        node = node[part]
        inner = section_type(section, part)
        if field is None:
            if inner is None or not isinstance(node, Mapping):
                return path, unknown(key, node, root)
        elif inner is None:
            hint = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            return path, refusal(key, node, hint)
        elif not isinstance(node, Mapping):
            return path, f"{key}={shown(node)} is not a section with keys of its own.{remedy(key, node)}"
        assert inner is not None
        section = inner
    raise AssertionError(f"no field at {location}")


def remedy(key: str, value: Any) -> str:
    """Return what an experiment file must contain to choose an option of a config group; empty for other sections."""
    if key not in CONFIG_GROUPS or not isinstance(value, str):
        return ""
    return f" To choose an option in an experiment file, write '- override /{key}: {shown(value)}' under 'defaults:'."


def unknown(key: str, value: Any, root: type[Section] = Config) -> str:
    """Return the error message for an unknown key, which may come from the user's own YAML file."""
    near = nearest_keys(key, [name for name, _, _ in declared(root)])
    return f"{shown(key)}={shown(value)}: there is no such key{nearest(near)}."


def refusal(key: str, value: Any, hint: Any) -> str:
    """Return the error message for a value that its key does not allow."""
    if isinstance(value, list) and key in ONE_COLUMN:
        return f"{key}={written(value)}: {ONE_COLUMN[key]}."
    return f"{key}={written(value)} is not {describe(hint)}{nearest(similar_choices(value, hint))}."


def similar_choices(value: Any, hint: Any) -> list[str]:
    """Return the choice that a misspelt value resembles, or the choices that an abbreviation stands for."""
    members = [kind for kind, _ in alternatives(hint) if get_origin(kind) is Literal]
    choices = [choice for kind in members for choice in get_args(kind) if isinstance(choice, str)]
    if not isinstance(value, str):
        return []
    return get_close_matches(value, choices, 1) or [
        choice for choice in choices if len(value) >= MIN_ABBREVIATION and choice.startswith(value)
    ]


def written(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else shown(value)


def wrong_arguments(place: str, node: Built, signature: Signature, values: Mapping[str, Any]) -> dict[Path, str]:
    """Map the path of each unknown, missing or invalid argument of a constructor to an error message."""
    given, arguments, parameters = given_by_builder(node, signature), node.arguments, signature.parameters
    found: dict[str, str] = {}
    lacking = sorted(given - type(node).by_position - parameters.keys()) if not signature.takes_all else []
    if lacking:
        reason = "sets reads_all_layers, so its constructor" if lacking == [ALL_LAYERS] else "cannot be used here: it"
        found["_target_"] = f"{place}._target_={node.target} {reason} must accept {' and '.join(lacking)} by keyword."
    elif signature.reads_last_layers and not signature.takes_all and LAST_LAYERS not in parameters:
        found["_target_"] = (
            f"{place}._target_={node.target} sets reads_last_layers, so its constructor must accept {LAST_LAYERS}, and "
            "keep it as an attribute."
        )
    for name, value in arguments.items():
        key = as_written(place, name, value, values)
        if name in given:
            found[name] = f"{key}: leave this out; imdbcls itself passes {name} to {node.target}."
        elif name in parameters:
            if not allows(value, parameters[name].hint):
                found[name] = refusal(key, value, parameters[name].hint)
        elif not signature.takes_all:
            taken = [each for each in parameters if each not in given]
            near = nearest(get_close_matches(name, taken, 1))
            found[name] = (
                f"{key}: {node.target} has no argument {name}; it takes {', '.join(taken) or 'no arguments'}{near}."
            )
    own_keys = {field.alias or name for name, field in type(node).model_fields.items()}
    for name, parameter in parameters.items():
        if parameter.required and name not in arguments and name not in given:
            found[name] = (
                f"{place}._target_={node.target} cannot be used here: imdbcls itself reads {place}.{name}, so rename "
                "the parameter."
                if name in own_keys
                else f"{place}.{name} is missing: {node.target} requires it. Add +{place}.{name}=..."
            )
    return {(*place.split("."), name): sentence for name, sentence in found.items()}


def given_by_builder(node: Built, signature: Signature) -> frozenset[str]:
    """Return the arguments that the builder adds to the arguments from the config."""
    offered = type(node).offered if signature.takes_all else type(node).offered & signature.parameters.keys()
    return type(node).given | offered | ({ALL_LAYERS} if signature.reads_all_layers else set())


def as_written(place: str, name: str, value: Any, values: Mapping[str, Any]) -> str:
    """Return the key that a user sets for an argument: a source's arguments come from keys of the data section."""
    if place == "data.source" and name in values["data"] and values["data"][name] == value:
        return f"data.{name}"
    return f"{place}.{name}"


def require_arguments(config: Config) -> None:
    """Import the constructors of PyTorch and plugins and check their arguments; raise UserError with all mistakes.

    `check` has already checked the constructors of imdbcls.
    """
    mistakes: list[str] = []
    for place, node in built_sections(config):
        if own_signature(node.target) is None:
            mistakes += wrong_imported_arguments(place, node, config)
    if mistakes:
        raise UserError(*mistakes)


def wrong_imported_arguments(place: str, node: Built, config: Config) -> Iterator[str]:
    """Import the constructor of a section, and yield an error message for each of its mistakes."""
    try:
        found = locate(node.target)
    except UserError as error:
        yield f"{place}.{error}"
        return
    if is_borrowed(node.target, found):
        yield f"{place}._target_={node.target} is refused: {node.target.split('.')[0]} does not define it."
        return
    try:
        signature = signature_of(found)
    except Exception as error:  # a plugin's class may raise anything
        yield f"{place}._target_={node.target} has no readable signature: {error}."
        return
    yield from wrong_arguments(place, node, signature, config.plain()).values()
