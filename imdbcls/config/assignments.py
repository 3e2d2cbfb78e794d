"""Parse the assignments of a command, such as `head=lstm lr=3e-5`, and compose configs from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import yaml
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imdbcls.config.composing import CONFIG, Loader
from imdbcls.config.hints import NUM_NEAREST, nearest
from imdbcls.config.quoting import as_one_value
from imdbcls.errors import UserError

MAX_REASON = 1000  # characters of a Hydra error to show
# run: one run, or a sweep if the experiment defines one. multirun: always a sweep. tune: a sweep in which keys may have
# intervals. single: never a sweep. show: only print the config, in which values may be missing.
Mode = Literal["run", "multirun", "tune", "single", "show"]


@dataclass(frozen=True)
class Assignment:
    """The assignment of one key or group in a command, such as `lr=1e-5,3e-5`.

    `line` is the assignment as written. `alternatives` has an override for each of its values, or for the two ends of
    an interval.
    """

    key: str
    is_group: bool
    alternatives: tuple[Override, ...]
    line: str
    is_interval: bool = False


@dataclass
class OverrideChecker:
    """Compose the config of a command, and collect the mistakes in the command without duplicates."""

    loader: Loader
    mode: Mode
    for_hydra: list[str] = field(default_factory=list)  # overrides of Hydra's own keys, which Hydra itself checks
    mistakes: dict[str, None] = field(default_factory=dict)
    loaded: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    command_keys: Sequence[str] = ()  # keys of the command itself, which messages can suggest

    def report(self, mistake: str) -> None:
        self.mistakes.setdefault(mistake)

    def options(self, group: str) -> list[str]:
        return self.loader.get_group_options(group, config_name=CONFIG, overrides=self.for_hydra)

    def groups(self) -> list[str]:
        found = self.loader.get_group_options("", ObjectType.GROUP, config_name=CONFIG, overrides=self.for_hydra)
        return [group for group in found if group != "hydra"]

    def keys_of(self, group: str, choice: str) -> set[str]:
        return self.loader.keys_of(group, choice, self.for_hydra)

    def load(self, overrides: Sequence[Override]) -> DictConfig:
        """Compose a config from some overrides; raise UserError for mistakes that only Hydra detects."""
        lines = (*self.for_hydra, *(str(override.input_line) for override in overrides))
        try:
            if lines not in self.loaded:
                self.loaded[lines] = self.loader.compose(lines)
            return self.loaded[lines]
        except UserError as error:
            raise UserError(*dict.fromkeys([*self.mistakes, *str(error).splitlines()])) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(*self.mistakes, sentence_of(error)) from error
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(*self.mistakes, f"A YAML file cannot be read: {reason}.") from error
        except RecursionError as error:
            raise UserError(
                *self.mistakes,
                "The config is nested too deeply, or refers to itself in a defaults list or through an alias.",
            ) from error
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError) as error:
            # Hydra parses some overrides that it cannot compose, such as head=0.
            given = " ".join(str(override.input_line) for override in overrides)
            raise UserError(*self.mistakes, f"{given}: Hydra cannot compose this ({error}).") from error


def sentence_of(error: Exception) -> str:
    """Return the message of a Hydra error on one line, with the first line of its cause, which may give the reason."""
    cause = next(iter(str(error.__cause__ or "").splitlines()), "")
    text = " ".join((f"{error}: {cause}" if cause and cause not in str(error) else str(error)).split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def first_values(assignments: Sequence[Assignment], *, groups_only: bool = False) -> list[Override]:
    """Return an override with the first value of each assignment; with `groups_only`, only for groups."""
    return [
        assignment.alternatives[0]
        for assignment in assignments
        if assignment.alternatives and (assignment.is_group or not groups_only)
    ]


def read_assignments(texts: Sequence[str], checker: OverrideChecker) -> list[Assignment]:
    """Parse overrides; report and drop unreadable overrides and choices that do not exist."""
    parser = OverridesParser.create(config_loader=checker.loader)
    overrides = []
    for text in texts:
        try:
            overrides += parser.parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            checker.report(
                f"{text} is not readable as key=value ({reason}). If the value is one string, write "
                f"{as_one_value(text)}."
                if "=" in text
                else f"{text} does not have the form key=value, such as lr=3e-5."
            )
    checker.for_hydra += [str(override.input_line) for override in overrides if override.is_hydra_override()]
    known_groups = checker.groups()
    assignments = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if not override.key_or_group:
            checker.report(f"{override.input_line} has no key before '='.")
            continue
        if override.package is not None or override.key_or_group == "hydra":
            checker.report(
                f"{override.input_line}: write one full key without @, such as head=lstm or hydra.verbose=true."
            )
            continue
        alternatives, is_interval = [override], override.is_interval_sweep()
        if override.is_sweep_override():
            key, swept = override.get_key_element(), override.value()
            # A sweeper draws values from an interval, so it is enough to check the two ends.
            ends = (swept.start, swept.end) if isinstance(swept, IntervalSweep) else None
            values = ends or override.sweep_string_iterator()
            alternatives = parser.parse_overrides([f"{key}={value}" for value in values])
        is_group = override.key_or_group in known_groups
        if is_group:
            alternatives = [each for each in alternatives if is_choice(each, checker)]
        assignments.append(
            Assignment(override.key_or_group, is_group, tuple(alternatives), str(override.input_line), is_interval)
        )
    return assignments


def is_choice(override: Override, checker: OverrideChecker) -> bool:
    """Return whether an override of a config group is valid: it selects existing choices, or removes an optional group.

    Report a mistake if it is not valid.
    """
    group, value = override.key_or_group, override.value()
    options = checker.options(group)
    if override.is_delete() or value is None:
        required = checker.load([]).hydra.runtime.choices[group] is not None
        if required:
            checker.report(f"{override.input_line}: every run needs a choice for {group}: {', '.join(options)}.")
        elif value is None and not override.is_delete():
            checker.report(f"{override.input_line}: leave out {group}, or choose one of {', '.join(options)}.")
        return override.is_delete() and not required
    wrong = [name for name in (value if isinstance(value, list) else [value]) if name not in options]
    for name in wrong:
        near = get_close_matches(str(name), options, NUM_NEAREST)
        checker.report(f"{group}={name} is not one of {', '.join(options)}{nearest(near)}.")
    return not wrong
