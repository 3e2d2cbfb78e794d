"""The choices and keys of a command, `head=lstm lr=3e-5`: composed, with all their mistakes found at once.

Hydra stops at its first mistake and names no near keys. So overrides are looked at here first, with Hydra's own parser
and composition; what passes is then Hydra's alone.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra import initialize_config_module
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imdbcls.config.allowed_targets import TARGETS, foreign_parts_of_hydra
from imdbcls.config.checking import check
from imdbcls.config.composing import CONFIG, Loader
from imdbcls.config.hints import NUM_NEAREST, nearest, unknown_key
from imdbcls.config.hydra_plugins import without_missing_parts
from imdbcls.config.options import CONF, knobs
from imdbcls.config.paths import wrong_places
from imdbcls.config.quoting import as_one_value, is_readable, readable
from imdbcls.config.resolving import leaves, look_up, resolve
from imdbcls.config.schema import Config, NoEffect, declared
from imdbcls.config.trust import named_by
from imdbcls.config.types_of_keys import type_of_key
from imdbcls.errors import UserError


def compose(texts: Sequence[str]) -> Config:
    """Return the valid config of one run, as the command composes it from the same overrides.

    An experiment's sweep is left out: its other values are set, and the swept groups keep their defaults. Raises
    UserError with every mistake.
    """
    examined = examine(texts, "single")
    if examined.mistakes or examined.config is None:
        raise UserError(*examined.mistakes)
    return examined.config


# A command may be one run or, by its experiment, a sweep (run), must be a sweep (multirun), is not a sweep (single), or
# only shows its configuration (show), where values may be missing.
Mode = Literal["run", "multirun", "single", "show"]


@dataclass(frozen=True)
class Examined:
    """What an examination found: the first job's config, all mistakes, and the loader that composed it.

    `config` is None if it has mistakes.
    """

    config: Config | None
    mistakes: list[str]
    loader: Loader


@dataclass(frozen=True)
class Wish:
    """What a command says of one key or group: one override, or in a sweep each of its values as one."""

    key: str
    is_group: bool
    alternatives: tuple[Override, ...]
    line: str
    is_interval: bool = False


@dataclass
class Examination:
    """The mistakes found so far, each said once, and what composes configurations."""

    loader: Loader
    mode: Mode
    for_hydra: list[str] = field(default_factory=list)  # overrides of hydra's own keys, which Hydra checks itself
    mistakes: dict[str, None] = field(default_factory=dict)
    loaded: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def note(self, mistake: str) -> None:
        self.mistakes.setdefault(mistake)

    def options(self, group: str) -> list[str]:
        return self.loader.get_group_options(group, config_name=CONFIG, overrides=self.for_hydra)

    def groups(self) -> list[str]:
        found = self.loader.get_group_options("", ObjectType.GROUP, config_name=CONFIG, overrides=self.for_hydra)
        return [group for group in found if group != "hydra"]

    def keys_of(self, group: str, choice: str) -> set[str]:
        return self.loader.keys_of(group, choice, self.for_hydra)

    def load(self, overrides: Sequence[Override]) -> DictConfig:
        """The configuration under some overrides; raises UserError where Hydra finds what was not foreseen here."""
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
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # An override that Hydra's grammar takes and its composition was not made for, such as head=0.
            given = " ".join(str(override.input_line) for override in overrides)
            raise UserError(*self.mistakes, f"{given}: Hydra cannot compose this ({error}).") from error


def sentence_of(error: Exception) -> str:
    """Hydra's own error in one line; where it has no words, OmegaConf's below it."""
    return " ".join((str(error) or str(error.__cause__)).split())


def examine(texts: Sequence[str], mode: Mode, folder: str | None = None) -> Examined:
    """The configuration of a command's first job, without what is wrong in it, and all its mistakes.

    `folder` is that of --config-dir. Every value of a sweep is tried once, together with the first values of the
    others; their combinations are validated job by job.
    """
    texts = [readable(text) for text in texts]
    with initialize_config_module(CONF, version_base="1.3"):
        examination = Examination(make_loader(texts, folder), mode)
        wishes = read_wishes(texts, examination)
        installed = examination.loader.without_folders().get_group_options
        examination.for_hydra, missing = without_missing_parts(examination.for_hydra, installed)
        for mistake in missing:
            examination.note(mistake)
        plain = examination.load(firsts(wishes, groups_only=True))
        for mistake in foreign_parts_of_hydra(OmegaConf.to_container(plain.hydra, resolve=False)):
            examination.note(mistake)
        sweeps = mode == "multirun" or (mode == "run" and plain.hydra.mode is RunMode.MULTIRUN)
        if sweeps:
            own = {wish.key for wish in wishes}
            params = OmegaConf.to_container(plain.hydra, resolve=False)["sweeper"].get("params") or {}  # type: ignore
            wishes += read_wishes([f"{key}={value}" for key, value in params.items() if key not in own], examination)
            check_intervals(wishes, plain, examination)
            plain = examination.load(firsts(wishes, groups_only=True))
        else:
            wishes = [without_sweep(wish, examination) for wish in wishes]
        wishes = [wish for wish in wishes if wish.alternatives]
        check_swept_groups(wishes, examination)
        wishes = [checked for wish in wishes if (checked := check_key(wish, plain, examination)) is not None]
        config = without_hydra(examination.load(firsts(wishes)))
        for mistake in without_effect(wishes, plain_values(config)):
            examination.note(mistake)
        first = check_values(config, examination)
        for wish in wishes:
            for override in () if wish.is_group else wish.alternatives[1:]:
                other = copy.deepcopy(config)
                OmegaConf.update(other, wish.key, override.value(), merge=True, force_add=True)
                check_values(other, examination)
    return Examined(first, list(examination.mistakes), examination.loader)


def make_loader(texts: Sequence[str], folder: str | None) -> Loader:
    """The loader of a command, which searches the same places as Hydra; raises UserError if one is not a folder."""
    search_path = GlobalHydra.instance().config_loader().get_search_path()
    if folder is not None:
        place = Path(folder).absolute()
        if not place.is_dir():
            raise UserError(f"--config-dir={folder} is not a folder.")
        search_path.prepend(provider="command-line", path=f"file://{place}", anchor=SearchPathQuery(provider="schema"))
    return Loader(search_path, named_by(OverridesParser.create().parse_overrides([*filter(is_readable, texts)])))


def firsts(wishes: Sequence[Wish], *, groups_only: bool = False) -> list[Override]:
    return [wish.alternatives[0] for wish in wishes if wish.alternatives and (wish.is_group or not groups_only)]


def read_wishes(texts: Sequence[str], examination: Examination) -> list[Wish]:
    """Parse overrides; notes those that cannot be read and choices that do not exist, and leaves them out."""
    parser = OverridesParser.create(config_loader=examination.loader)
    overrides = []
    for text in texts:
        try:
            overrides += parser.parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            examination.note(
                f"{text}: not read as key=value ({reason}). If the value is one text, write {as_one_value(text)}."
                if "=" in text
                else f"{text}: not of the form key=value, such as lr=3e-5."
            )
    examination.for_hydra += [str(override.input_line) for override in overrides if override.is_hydra_override()]
    known_groups = examination.groups()
    wishes = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if not override.key_or_group:
            examination.note(f"{override.input_line}: there is no key before '='.")
            continue
        if override.package is not None or override.key_or_group == "hydra":
            examination.note(
                f"{override.input_line}: write each key on its own, without @: head=lstm, hydra.verbose=true."
            )
            continue
        alternatives, is_interval = [override], override.is_interval_sweep()
        if override.is_sweep_override():
            key, swept = override.get_key_element(), override.value()
            # An interval is for a sweeper that draws from it: its ends stand for all.
            ends = (swept.start, swept.end) if isinstance(swept, IntervalSweep) else None
            values = ends or override.sweep_string_iterator()
            alternatives = parser.parse_overrides([f"{key}={value}" for value in values])
        is_group = override.key_or_group in known_groups
        if is_group:
            alternatives = [each for each in alternatives if is_choice(each, examination)]
        wishes.append(Wish(override.key_or_group, is_group, tuple(alternatives), str(override.input_line), is_interval))
    return wishes


def is_choice(override: Override, examination: Examination) -> bool:
    """Whether a group's override names choices that exist; notes it where not."""
    group, value = override.key_or_group, override.value()
    options = examination.options(group)
    if override.is_delete() or value is None:
        required = examination.load([]).hydra.runtime.choices[group] is not None
        if required:
            examination.note(f"{override.input_line} leaves a run without its {group}; choose {', '.join(options)}.")
        elif value is None and not override.is_delete():
            examination.note(f"{override.input_line}: leave {group} out, or choose {', '.join(options)}.")
        return override.is_delete() and not required
    wrong = [name for name in (value if isinstance(value, list) else [value]) if name not in options]
    for name in wrong:
        near = get_close_matches(str(name), options, NUM_NEAREST)
        examination.note(f"{group}={name} is not one of {', '.join(options)}{nearest(near)}.")
    return not wrong


MULTIRUN = "add --multirun to run each"


def without_sweep(wish: Wish, examination: Examination) -> Wish:
    """The wish of a command that is no sweep: notes several values, and keeps the first."""
    if len(wish.alternatives) > 1:
        ways = "" if wish.is_group else f", or write {wish.key}=[...] for a list"
        if not wish.is_group and all(isinstance(each.value(), str) for each in wish.alternatives):
            ways += f", or {as_one_value(wish.line)} for one text"
        do = "--cfg and --info show one run, so give one value" if examination.mode == "show" else MULTIRUN
        examination.note(f"{wish.line} gives several values: {do}{ways}.")
    return replace(wish, alternatives=wish.alternatives[:1])


def check_intervals(wishes: Sequence[Wish], plain: DictConfig, examination: Examination) -> None:
    """Note intervals: only a sweeper that searches draws from them."""
    if plain.hydra.sweeper._target_.endswith(".BasicSweeper"):
        for wish in wishes:
            if wish.is_interval:
                examination.note(
                    f"{wish.line}: an interval cannot be swept yet; list its values, {wish.key}=1e-5,3e-5."
                )


def check_swept_groups(wishes: Sequence[Wish], examination: Examination) -> None:
    """Note the keys that only some of a swept group's choices have: half of the sweep would fail by them."""
    for place, group in enumerate(wishes):
        keys = [wish for wish in wishes if wish.key.startswith(f"{group.key}.")]
        for choice in group.alternatives[1:] if group.is_group else ():
            others = [*wishes[:place], replace(group, alternatives=(choice,)), *wishes[place + 1 :]]
            config = examination.load(firsts(others, groups_only=True))  # a file's mistakes come out here
            for wish in keys:
                check_key(wish, config, examination)


def check_key(wish: Wish, config: DictConfig, examination: Examination) -> Wish | None:
    """The wish without the values that do not fit its key, or None where there is no such key; notes both."""
    override = wish.alternatives[0]
    if wish.is_group:
        return wish
    try:
        default = look_up(plain_values(config), wish.key)
    except (KeyError, TypeError):
        if (override.is_add() or override.is_force_add()) and is_argument(wish.key):
            return wish  # whether what is built takes it, is known when its class is imported
        options = {group: examination.options(group) for group in examination.groups()}
        known = plain_values(without_hydra(config))
        examination.note(unknown_key(wish.key, known, config.hydra.runtime.choices, options, examination.keys_of))
        return None
    if override.is_delete():
        if wish.key in {knob.key for knob in knobs()}:
            examination.note(f"{wish.line}: every run needs {wish.key}.")
            return None
        return wish
    if isinstance(default, str) and default.startswith("${"):
        default = OmegaConf.select(config, wish.key, throw_on_resolution_failure=False)
    values = plain_values(config)
    fitting = [each for each in wish.alternatives if fits(each, default, values, examination)]
    return replace(wish, alternatives=tuple(fitting)) if fitting else None


def is_argument(key: str) -> bool:
    """Whether a key belongs to what is built, which may take more than its YAML says."""
    return any(key.startswith(f"{place}.") for place in TARGETS)


def fits(override: Override, default: Any, values: Mapping[str, Any], examination: Examination) -> bool:
    """Whether a value has its default's type, if nothing else says its type; note a value that does not."""
    key, value = override.key_or_group, override.value()
    if isinstance(default, Mapping | DictConfig):
        if not isinstance(value, Mapping):
            keys = ", ".join(f"{key}.{name}" for name in default if not str(name).startswith("_"))
            examination.note(f"{override.input_line}: {key} is a section; set one of its keys: {keys}.")
        return isinstance(value, Mapping)
    is_reference = isinstance(value, str) and value.startswith("${")
    if default is None or is_reference or type_of_key(key, values) is not None:
        return True  # `check` says what is allowed, or nothing is known
    if isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        right, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        right, kind = not isinstance(value, Mapping | list), "one value"
    else:
        right, kind = isinstance(value, list), "a list, [a,b]"
    if not right:
        usual = "" if default == "???" else f", {default} by default"
        examination.note(f"{override.input_line}: {key} is {kind}{usual}.")
    return right


def without_effect(wishes: Sequence[Wish], config: Mapping[str, Any]) -> Iterator[str]:
    """What a command sets for nothing, because of another key's value in every job."""
    lines = {wish.key: wish.line for wish in wishes}
    swept = {wish.key for wish in wishes if len(wish.alternatives) > 1}
    idle = [(key, each) for key, _, markers in declared() for each in markers if isinstance(each, NoEffect)]
    for key, marker in idle:
        if key in lines and marker.other not in swept:
            try:
                value = look_up(config, marker.other)
            except KeyError:
                continue  # of another choice
            if marker.when(value):
                yield f"{lines[key]} has no effect with {marker.other}={value}; leave one of them out."


def plain_values(config: DictConfig) -> dict[str, Any]:
    """As plain values, interpolations unresolved."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def without_hydra(config: DictConfig) -> DictConfig:
    copied = copy.deepcopy(config)
    with open_dict(copied):
        copied.pop("hydra", None)
    return copied


def check_values(config: DictConfig, examination: Examination) -> Config | None:
    """Resolve and check one job's config; note its mistakes. Return None for a config with mistakes."""
    plain = plain_values(config)
    unset = [path for path, value in leaves(plain) if value == "???"]
    for path in unset:
        key = ".".join(map(str, path))
        if examination.mode != "show" and not any(mistake.startswith(f"{key}=") for mistake in examination.mistakes):
            examination.note(f"{key} has no value yet: give {key}=...")
        section = plain
        for part in path[:-1]:
            section = section[part]
        section[path[-1]] = "missing"  # so that the rest can be looked at
    try:
        checked = check(resolve(OmegaConf.create(plain) if unset else config))
    except UserError as error:  # a value that cannot be resolved
        for mistake in str(error).splitlines():
            examination.note(mistake)
        return None
    mistakes = list(checked.mistakes)
    known = {mistake.partition("=")[0] for mistake in mistakes}
    places = [] if unset else wrong_places(checked.config)
    mistakes += [mistake for mistake in places if mistake.partition("=")[0] not in known]
    for mistake in mistakes:
        examination.note(mistake)
    return None if mistakes else checked.config
