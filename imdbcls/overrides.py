"""The choices and keys of a command, `head=lstm lr=3e-5`: composed, with all their mistakes found at once.

Hydra stops at its first mistake and names no near keys. So overrides are looked at here first, with Hydra's own parser
and composition; what passes is then Hydra's alone.
"""

import copy
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from hydra import initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imdbcls.choices import CONF, choice_keys, groups, help_text, knobs
from imdbcls.console import say, user_errors
from imdbcls.errors import UserError
from imdbcls.other_names import OTHER_NAMES
from imdbcls.places import wrong_places
from imdbcls.targets import TARGETS, foreign_parts_of_hydra
from imdbcls.validate import CHOICES, FLAGS, NUMBERS, OF_SEVERAL_KINDS, look_up, validate

NUM_NEAREST = 3  # keys or choices that a sentence suggests at most
# A key that a command sets, and with which value of which other it does nothing.
IDLE: tuple[tuple[str, tuple[str, Callable[[Any], bool]]], ...] = (
    ("data.window_overlap", ("data.truncation", lambda value: value != "windows")),
    ("data.max_windows", ("data.truncation", lambda value: value != "windows")),
    ("data.validation_fraction", ("data.validation", lambda value: value is not None)),
    ("data.validation_fraction", ("data.validation_split", lambda value: value is not None)),
    ("data.test_fraction", ("data.test", lambda value: value is not None)),
    ("data.test_fraction", ("data.test_split", lambda value: value is not None)),
)
# What to do instead of naming several columns.
ONE_COLUMN = {
    "data.text_column": "a run reads one text per document; join the columns into one column of the file first",
    "data.label_column": (
        "a run trains one label per document; for several labels, train a run for each column, or write classes that "
        "exclude each other into one column"
    ),
}
HELP = "python -m imdbcls.train --help lists them"


def answer_command(arguments: Sequence[str]) -> None:
    """Answer `--help`, and end a command with mistakes by naming them all; return where Hydra may take over."""
    asked, unknown = get_args_parser().parse_known_args(list(arguments))
    if asked.help:
        print(help_text())
        sys.exit(0)
    if asked.config_name or asked.config_path or asked.experimental_rerun:
        say("imdbcls: there is one configuration; --config-dir=FOLDER adds YAML files of your own to its groups.")
        sys.exit(2)
    if asked.hydra_help or asked.shell_completion:
        return
    flags = [argument for argument in unknown if argument.startswith("-")]
    strays = [argument for argument in unknown if argument not in flags]
    texts = [*asked.overrides, *strays]
    if asked.config_dir and not any(text.startswith("hydra.searchpath=") for text in texts):
        texts.append(f"hydra.searchpath=['file://{Path(asked.config_dir).absolute()}']")
    mode: Mode = "single" if asked.cfg or asked.info else "multirun" if asked.multirun else "run"
    mistakes = [f"{flag} is no option; choices and keys have no dashes: lr=3e-5." for flag in flags]
    if strays and not flags:
        mistakes.append(f"{' '.join(strays)}: choices and keys stand together, all before or all after the options.")
    with user_errors():
        _, found = examine(texts, mode)
        if mistakes or found:
            raise UserError(*mistakes, *found)


def compose(texts: Sequence[str]) -> dict[str, Any]:
    """The resolved, valid configuration of one run, as the command composes it from the same overrides.

    An experiment's sweep is left out: its other values are set, and the swept groups keep their defaults. Raises
    UserError with every mistake.
    """
    config, mistakes = examine(texts, "single")
    if mistakes:
        raise UserError(*mistakes)
    return config


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values; raises UserError where a value is missing or points nowhere."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key} has no usable value: {str(error.msg).splitlines()[0]}.") from error
    assert isinstance(config, dict)
    # A year is a name for a study like any other, but Hydra reads a number.
    names = {key: str(config[key]) for key in ("study", "runs_dir") if type(config.get(key)) is int}
    return {str(key): value for key, value in (config | names).items()}


# A command may be one run or, by its experiment, a sweep (run), must be a sweep (multirun), or is no sweep (single).
Mode = Literal["run", "multirun", "single"]


@dataclass(frozen=True)
class Wish:
    """What a command says of one key or group: one override, or in a sweep each of its values as one."""

    key: str
    is_group: bool
    alternatives: tuple[Override, ...]
    line: str


@dataclass
class Examination:
    """The mistakes found so far, each said once, and what composes configurations."""

    loader: Any  # Hydra's ConfigLoader
    for_hydra: list[str] = field(default_factory=list)  # overrides of hydra's own keys, which Hydra checks itself
    mistakes: dict[str, None] = field(default_factory=dict)
    loaded: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    found: dict[str, list[str]] = field(default_factory=dict)  # each group's choices, which Hydra finds slowly

    def note(self, mistake: str) -> None:
        self.mistakes.setdefault(mistake)

    def options(self, group: str) -> list[str]:
        if group not in self.found:
            self.found[group] = self.loader.get_group_options(group, config_name="config", overrides=self.for_hydra)
        return self.found[group]

    def load(self, overrides: Sequence[Override]) -> DictConfig:
        """The configuration under some overrides; raises UserError where Hydra finds what was not foreseen here."""
        lines = (*self.for_hydra, *(str(override.input_line) for override in overrides))
        try:
            if lines not in self.loaded:
                self.loaded[lines] = self.loader.load_configuration("config", list(lines), run_mode=RunMode.RUN)
            return self.loaded[lines]
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(*self.mistakes, *str(error).splitlines()) from error
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # An override that Hydra's grammar takes and its composition was not made for, such as head=0.
            told = " ".join(str(override.input_line) for override in overrides)
            raise UserError(*self.mistakes, f"{told}: Hydra cannot compose this ({error}).") from error


def examine(texts: Sequence[str], mode: Mode) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a command's first job, without what is wrong in it, and all its mistakes.

    Every value of a sweep is tried once, beside the first values of the others; their combinations are validated job by
    job.
    """
    with initialize_config_module(CONF, version_base="1.3"):
        examination = Examination(GlobalHydra.instance().config_loader())
        wishes = read_wishes(texts, examination)
        plain = examination.load(firsts(wishes, groups_only=True))
        for mistake in foreign_parts_of_hydra(OmegaConf.to_container(plain.hydra, resolve=False)):
            examination.note(mistake)
        sweeps = mode == "multirun" or (mode == "run" and plain.hydra.mode is RunMode.MULTIRUN)
        if sweeps:
            own = {wish.key for wish in wishes}
            params = [f"{key}={value}" for key, value in (plain.hydra.sweeper.params or {}).items() if key not in own]
            wishes += read_wishes(params, examination)
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
    return first, list(examination.mistakes)


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
            home = " ~ is not read here: write the folder out, or $HOME." if "=~" in text else ""
            examination.note(
                f"{text}: not read as key=value ({reason}); a value with spaces, commas or brackets wants quotes of "
                f"its own: 'key=\"a, b\"'.{home}"
                if "=" in text
                else f"{text}: not of the form key=value, such as lr=3e-5."
            )
    examination.for_hydra += [str(override.input_line) for override in overrides if override.is_hydra_override()]
    known_groups = set(examination.loader.list_groups(""))
    wishes = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if not override.key_or_group:
            examination.note(f"{override.input_line}: there is no key before '='.")
            continue
        alternatives = [override]
        if override.is_sweep_override():
            key, swept = override.get_key_element(), override.value()
            # An interval is for a sweeper that draws from it: its ends stand for all.
            ends = (swept.start, swept.end) if isinstance(swept, IntervalSweep) else None
            values = ends or override.sweep_string_iterator()
            alternatives = parser.parse_overrides([f"{key}={value}" for value in values])
        is_group = override.key_or_group in known_groups
        if is_group:
            alternatives = [each for each in alternatives if is_choice(each, examination)]
        wishes.append(Wish(override.key_or_group, is_group, tuple(alternatives), str(override.input_line)))
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


def nearest(names: Sequence[str]) -> str:
    return f"; the nearest: {', '.join(names)}" if names else ""


def without_sweep(wish: Wish, examination: Examination) -> Wish:
    """The wish of a command that is no sweep: notes several values, and keeps the first."""
    if len(wish.alternatives) > 1:
        ways = "" if wish.is_group else f", or write {wish.key}=[...] for a list"
        examination.note(f"{wish.line} gives several values: add --multirun to run each{ways}.")
    return replace(wish, alternatives=wish.alternatives[:1])


def check_swept_groups(wishes: Sequence[Wish], examination: Examination) -> None:
    """Note the keys that only some of a swept group's choices have: half of the sweep would fail by them."""
    for place, group in enumerate(wishes):
        keys = [wish for wish in wishes if wish.key.startswith(f"{group.key}.")] if group.is_group else []
        for choice in group.alternatives[1:] if keys else ():
            others = [*wishes[:place], replace(group, alternatives=(choice,)), *wishes[place + 1 :]]
            config = examination.load(firsts(others, groups_only=True))
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
        examination.note(unknown_key(wish.key, config))
        return None
    if override.is_delete():
        if wish.key in {knob.key for knob in knobs()}:
            examination.note(f"{wish.line}: every run needs {wish.key}.")
            return None
        return wish
    if isinstance(default, str) and default.startswith("${"):
        default = OmegaConf.select(config, wish.key, throw_on_resolution_failure=False)
    fitting = [each for each in wish.alternatives if fits(each, default, examination)]
    return replace(wish, alternatives=tuple(fitting)) if fitting else None


def is_argument(key: str) -> bool:
    """Whether a key belongs to what is built, which may take more than its YAML says."""
    return any(key.startswith(f"{place}.") for place in TARGETS)


def fits(override: Override, default: Any, examination: Examination) -> bool:
    """Whether a value is of its default's type, which is all that is known of most keys; notes it where not."""
    key, value = override.key_or_group, override.value()
    if isinstance(default, Mapping | DictConfig):
        if not isinstance(value, Mapping):
            keys = ", ".join(f"{key}.{name}" for name in default if not str(name).startswith("_"))
            examination.note(f"{override.input_line}: {key} is a section; set one of its keys: {keys}.")
        return isinstance(value, Mapping)
    is_reference = isinstance(value, str) and value.startswith("${")
    if key in (*NUMBERS, *CHOICES, *FLAGS, *OF_SEVERAL_KINDS) or default is None or is_reference:
        return True  # `validate` says what is allowed, or nothing is known
    if isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        right, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        right, kind = not isinstance(value, Mapping | list), "one value"
    else:
        right, kind = isinstance(value, list), "a list, [a,b]"
    if not right:
        if isinstance(value, list) and key in ONE_COLUMN:
            examination.note(f"{override.input_line}: {ONE_COLUMN[key]}.")
            return False
        usual = "" if default == "???" else f", {default} by default"
        examination.note(f"{override.input_line}: {key} is {kind}{usual}.")
    return right


def without_effect(wishes: Sequence[Wish], config: Mapping[str, Any]) -> Iterator[str]:
    """What a command sets for nothing, because of another key's value in every job."""
    lines = {wish.key: wish.line for wish in wishes}
    swept = {wish.key for wish in wishes if len(wish.alternatives) > 1}
    for key, (other, is_idle) in IDLE:
        if key in lines and other not in swept:
            try:
                value = look_up(config, other)
            except KeyError:
                continue  # of another choice
            if is_idle(value):
                yield f"{lines[key]} has no effect with {other}={value}; leave one of them out."


def unknown_key(key: str, config: DictConfig) -> str:
    """The sentence on a key that does not exist: who has it, or what is nearest."""
    section, _, rest = key.partition(".")
    choices = groups()
    if section in choices and rest:
        name = rest.partition(".")[0]
        owners = [choice for choice in choices[section] if name in choice_keys(section, choice)]
        chosen = config.hydra.runtime.choices.get(section, "null")  # absent where the group was set to null
        if owners and chosen not in owners:
            return f"{key}: {section}={chosen} has no {name}; it belongs to {section}={','.join(owners)}."
    if key in OTHER_NAMES:
        return f"{key}: there is no such key; here it is {OTHER_NAMES[key]}."
    known = [*choices, *all_keys(plain_values(without_hydra(config)))]
    near = nearest_keys(key, known)
    return f"{key}: there is no such key{nearest(near)}." if near else f"{key}: there is no such key; {HELP}."


def nearest_keys(key: str, known: Collection[str]) -> list[str]:
    """The keys with the same last part, then those spelt alike."""
    tail = key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == tail]
    return list(dict.fromkeys([*same, *get_close_matches(key, known, NUM_NEAREST)]))[:NUM_NEAREST]


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key that a user sets, dotted: names that only label a choice and Hydra's own (`_target_`) are left out."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not str(name).startswith("_") and name != "name":
                yield f"{prefix}{name}"
                yield from all_keys(value, f"{prefix}{name}.")


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


def check_values(config: DictConfig, examination: Examination) -> dict[str, Any]:
    """Resolve and validate one job's configuration; notes what is missing or impossible."""
    filled = copy.deepcopy(config)
    plain = plain_values(filled)
    unset = [key for key in all_keys(plain) if look_up(plain, key) == "???"]
    for key in unset:
        if not any(mistake.startswith(f"{key}=") for mistake in examination.mistakes):
            examination.note(f"{key} has no value yet: give {key}=...")
        OmegaConf.update(filled, key, "missing", force_add=True)  # so that the rest can be looked at
    resolved: dict[str, Any] = {}
    mistakes: list[str] = []
    try:
        resolved = resolve(filled)
        validate(resolved)
    except UserError as error:
        mistakes = str(error).splitlines()
    if not unset:
        mistakes += wrong_places(resolved)
    for mistake in mistakes:
        examination.note(mistake)
    return {} if mistakes else resolved
