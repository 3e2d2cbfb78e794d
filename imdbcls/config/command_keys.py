"""The options and keys of a command with a file of its own in `conf/`, such as `seeds.max` of `imdbcls.study`.

The other arguments of such a command configure its runs. They have the syntax of `python -m imdbcls.train --multirun`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar, Generic, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from pydantic import ValidationError

from imdbcls.config.checking import sentence_on
from imdbcls.config.commandline import own_version, without_plus
from imdbcls.config.options import CONF, config_keys, help_width, lines_of_keys
from imdbcls.config.quoting import readable
from imdbcls.config.schema import declared
from imdbcls.config.section import Section
from imdbcls.runtime.limits import require_address_space
from imdbcls.runtime.torchrun import require_single_process


class CommandSettings(Section):
    """The keys of one command. A section in `shared` also has keys that belong to the runs."""

    shared: ClassVar[frozenset[str]] = frozenset()

    def exclusions(self) -> Iterator[str]:
        """Yield an error message for each combination of values that is not allowed."""
        yield from ()


S = TypeVar("S", bound=CommandSettings)


@dataclass(frozen=True)
class Arguments:
    """The overrides, the value of --config-dir and the flags of a command, and an error message per mistake."""

    overrides: tuple[str, ...]
    config_dir: str | None
    flags: frozenset[str]
    mistakes: tuple[str, ...]


@dataclass(frozen=True)
class CommandKeys(Generic[S]):
    """The settings of a command (None if they have mistakes), the overrides for its runs, and the mistakes."""

    settings: S | None
    others: tuple[str, ...]
    mistakes: tuple[str, ...]


def read_arguments(
    arguments: Sequence[str],
    header: str,
    file: str,
    flags: Sequence[str] = (),
) -> Arguments:
    """Separate options from overrides. For `--help` and `--version`, print the text and exit.

    The help text is `header`, followed by the keys in `conf/<file>`. `flags` are further options without a value.
    Raise UserError if the command cannot run in this environment.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (("--help", "-h"), ("--version",), *((flag,) for flag in flags)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--config-dir", "-cd")
    asked, rest = parser.parse_known_args(list(arguments))
    if asked.help:
        print("\n".join([header, "", *lines_of_keys(config_keys(file), help_width())]))
        sys.exit(0)
    if asked.version:
        print(f"imdbcls {own_version()}")
        sys.exit(0)
    require_single_process()
    require_address_space()
    options = [each for each in rest if each.startswith("-")]
    mistakes = [f"{each} is not an option; write choices and keys without dashes: lr=3e-5." for each in options]
    overrides = [readable(without_plus(each)) for each in rest if each not in options]
    chosen = frozenset(flag for flag in flags if getattr(asked, flag.strip("-").replace("-", "_")))
    return Arguments(tuple(overrides), asked.config_dir, chosen, tuple(mistakes))


def read_command_keys(overrides: Sequence[str], section: type[S], file: str) -> CommandKeys[S]:
    """Check the overrides of the command's own keys; their defaults are in `conf/<file>`."""
    values: Any = OmegaConf.to_container(OmegaConf.create(files(CONF).joinpath(file).read_text(encoding="utf-8")))
    others: list[str] = []
    mistakes: list[str] = []
    for text in overrides:
        if is_own(text.partition("=")[0].lstrip("+~"), section):
            mistakes += assign(values, text, names_of(section))
        else:
            others.append(text)
    try:
        settings = section.model_validate(values)
        mistakes += settings.exclusions()
    except ValidationError as error:
        settings = None
        found = (sentence_on(tuple(map(str, each["loc"])), each["type"], values, section) for each in error.errors())
        mistakes += dict(found).values()
    return CommandKeys(settings if not mistakes else None, tuple(others), tuple(mistakes))


def is_own(key: str, section: type[CommandSettings]) -> bool:
    """Return whether a dotted key belongs to the command. Other keys belong to its runs."""
    first = key.partition(".")[0]
    return key in names_of(section) if first in section.shared else first in section.model_fields


def assign(values: Any, text: str, known: Sequence[str]) -> Iterator[str]:
    """Apply the override `text` to the nested dict `values`, in place; yield an error message if that is impossible."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except HydraException:
        yield f"{text} does not have the form key=value, such as seeds.max=10."
        return
    *parents, last = override.key_or_group.split(".")
    for parent in parents:
        values = values.get(parent)
        if not isinstance(values, dict):
            yield f"{text}: there is no such key."
            return
    if override.is_delete():
        yield f"{text}: this key cannot be removed."
    elif override.is_sweep_override():
        yield f"{text} has several values: set one value."
    elif isinstance(values.get(last), dict):
        keys = [each for each in known if each.startswith(f"{override.key_or_group}.")]
        yield f"{text}: {override.key_or_group} is a section; set one of its keys: {', '.join(keys)}."
    else:
        values[last] = override.value()


def names_of(section: type[CommandSettings]) -> tuple[str, ...]:
    """Return the dotted keys of a command."""
    return tuple(name for name, _, _ in declared(section))
