"""Find all mistakes in the overrides of a command, such as `head=lstm lr=3e-5`.

Hydra stops at the first mistake and suggests no keys. So this module checks the overrides first, with Hydra's own
parser and composition, and reports all mistakes together. Hydra then composes the overrides if there are no mistakes.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from imdbcls.config.allowed_targets import TARGETS, foreign_parts_of_hydra
from imdbcls.config.assignments import Assignment, Mode, OverrideChecker, first_values, read_assignments
from imdbcls.config.checking import check
from imdbcls.config.composing import Loader
from imdbcls.config.hints import nearest, nearest_keys, unknown_key
from imdbcls.config.hydra_plugins import is_search, without_missing_parts, wrong_settings_of_search
from imdbcls.config.key_types import NoEffect
from imdbcls.config.options import CONF, config_keys
from imdbcls.config.packages import missing_packages
from imdbcls.config.paths import wrong_paths
from imdbcls.config.quoting import as_one_value, is_readable, readable
from imdbcls.config.resolving import flatten, look_up, plain_values, resolve
from imdbcls.config.schema import Config, DataConfig, declared
from imdbcls.config.trust import named_by
from imdbcls.config.types_of_keys import type_of_key
from imdbcls.errors import UserError
from imdbcls.printable import is_unicode, shown, spelled


def compose(texts: Sequence[str], folder: str | None = None) -> Config:
    """Return the valid config of one run, as the command composes it from the same overrides.

    `folder` contains the user's YAML files, like --config-dir. The sweep of an experiment is ignored, so the keys and
    groups that it would sweep keep their defaults; the experiment's other values apply. Raise UserError with every
    mistake.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"config_dir={folder} is not a folder.")
    if options := [text for text in texts if text.startswith("-")]:
        raise UserError(*map(python_for, options))
    examined = examine(texts, "single", folder)
    if examined.mistakes or examined.config is None:
        raise UserError(*examined.mistakes)
    return examined.config


def python_for(option: str) -> str:
    """Return the error message for a command-line option in the arguments of `compose`."""
    name, _, value = option.partition("=")
    if name in ("--config-dir", "-cd"):
        return f"{option} is an option of the command. In Python, write compose(..., config_dir={value or 'FOLDER'!r})."
    return f"{option} is an option of the command. compose takes choices and keys, such as head=lstm and lr=3e-5."


@dataclass(frozen=True)
class Examined:
    """What `examine` found in a command.

    - `config`: the config of the first job; it may be None if the command has mistakes.
    - `mistakes`: an error message for each mistake in the command.
    - `assignments`: for each key, the values that the command or its experiment gives it.
    - `is_search`: whether Hydra's sweeper chooses later jobs by the results of earlier ones.
    """

    config: Config | None
    mistakes: list[str]
    loader: Loader
    assignments: tuple[Assignment, ...] = ()
    is_search: bool = False


def examine(texts: Sequence[str], mode: Mode, folder: str | None = None, command_keys: Sequence[str] = ()) -> Examined:
    """Return the config of a command's first job and all mistakes in the command.

    `folder` is the value of --config-dir. Messages also suggest `command_keys`. Every value of a swept key is checked
    once, combined with the first values of the other swept keys and groups. The other combinations are checked when
    their jobs start.
    """
    texts = [readable(text) for text in texts]
    with initialize_config_module(CONF, version_base="1.3"):
        checker = OverrideChecker(make_loader(texts, folder), mode, command_keys=command_keys)
        assignments = read_assignments(texts, checker)
        installed = checker.loader.without_folders().get_group_options
        checker.for_hydra, missing = without_missing_parts(checker.for_hydra, installed)
        for mistake in missing:
            checker.report(mistake)
        plain = checker.load(first_values(assignments, groups_only=True))
        for mistake in foreign_parts_of_hydra(OmegaConf.to_container(plain.hydra, resolve=False)):
            checker.report(mistake)
        sweeps = mode in ("multirun", "tune") or (mode == "run" and plain.hydra.mode is RunMode.MULTIRUN)
        if sweeps:
            own = {assignment.key for assignment in assignments}
            params = OmegaConf.to_container(plain.hydra, resolve=False)["sweeper"].get("params") or {}  # type: ignore
            assignments += read_assignments(
                [f"{key}={value}" for key, value in params.items() if key not in own], checker
            )
            if mode != "tune":
                check_intervals(assignments, plain, checker)
            plain = checker.load(first_values(assignments, groups_only=True))
        else:
            assignments = [without_sweep(assignment, checker) for assignment in assignments]
        assignments = [assignment for assignment in assignments if assignment.alternatives]
        check_swept_groups(assignments, checker)
        assignments = [
            checked for assignment in assignments if (checked := check_key(assignment, plain, checker)) is not None
        ]
        config = without_hydra(checker.load(first_values(assignments)))
        for mistake in without_effect(assignments, plain_values(config)):
            checker.report(mistake)
        for mistake in wrong_study_of_debug(checker.load(first_values(assignments))):
            checker.report(mistake)
        searches = sweeps and is_search(plain.hydra.sweeper)
        if searches:
            swept = [assignment.key for assignment in assignments if len(assignment.alternatives) > 1]
            metric, jobs = (
                OmegaConf.select(config, key, throw_on_resolution_failure=False) for key in ("metric", "jobs")
            )
            for mistake in wrong_settings_of_search(plain.hydra, metric, jobs, swept):
                checker.report(mistake)
        first = check_values(config, checker)
        for assignment in assignments:
            for override in () if assignment.is_group else assignment.alternatives[1:]:
                other = copy.deepcopy(config)
                OmegaConf.update(other, assignment.key, override.value(), merge=True, force_add=True)
                check_values(other, checker)
    return Examined(first, list(checker.mistakes), checker.loader, tuple(assignments), searches)


def make_loader(texts: Sequence[str], folder: str | None) -> Loader:
    """Return a loader with the same search path as Hydra; raise UserError if `folder` is not a folder."""
    search_path = GlobalHydra.instance().config_loader().get_search_path()
    if folder is not None:
        place = Path(folder).absolute()
        if not place.is_dir():
            raise UserError(f"--config-dir={folder} is not a folder.")
        search_path.prepend(provider="command-line", path=f"file://{place}", anchor=SearchPathQuery(provider="schema"))
    return Loader(search_path, named_by(OverridesParser.create().parse_overrides([*filter(is_readable, texts)])))


MULTIRUN = "add --multirun to train a run for each"


def without_sweep(assignment: Assignment, checker: OverrideChecker) -> Assignment:
    """Return an assignment with only its first value, for a command that is not a sweep; report further values."""
    if len(assignment.alternatives) > 1:
        ways = "" if assignment.is_group else f", or write {assignment.key}=[...] for a list"
        if not assignment.is_group and all(isinstance(each.value(), str) for each in assignment.alternatives):
            ways += f", or {as_one_value(assignment.line)} for one string"
        remedy = {"show": "--cfg and --info show one run, so set one value", "single": "set one value"}
        checker.report(f"{assignment.line} has several values: {remedy.get(checker.mode, MULTIRUN)}{ways}.")
    return replace(assignment, alternatives=assignment.alternatives[:1])


def check_intervals(assignments: Sequence[Assignment], plain: DictConfig, checker: OverrideChecker) -> None:
    """Report each interval if the command uses Hydra's default sweeper, which cannot draw values from intervals."""
    if not is_search(plain.hydra.sweeper):
        for assignment in assignments:
            if assignment.is_interval:
                sweeper = "" if checker.command_keys else ", or choose a sweeper that optimises: hydra/sweeper=optuna"
                checker.report(
                    f"{assignment.line}: an interval cannot be swept by Hydra's default sweeper. List values instead, "
                    f"such as {assignment.key}=1e-5,3e-5{sweeper}."
                )


def check_swept_groups(assignments: Sequence[Assignment], checker: OverrideChecker) -> None:
    """Report keys that only some choices of a swept group have, because the jobs with other choices would fail."""
    for index, group in enumerate(assignments):
        keys = [assignment for assignment in assignments if assignment.key.startswith(f"{group.key}.")]
        for choice in group.alternatives[1:] if group.is_group else ():
            others = [*assignments[:index], replace(group, alternatives=(choice,)), *assignments[index + 1 :]]
            config = checker.load(first_values(others, groups_only=True))  # raises for mistakes in the choice's file
            for assignment in keys:
                check_key(assignment, config, checker)


def check_key(assignment: Assignment, config: DictConfig, checker: OverrideChecker) -> Assignment | None:
    """Report the mistakes in an assignment. Return the assignment without wrong values, or None if all are wrong."""
    override = assignment.alternatives[0]
    if assignment.is_group:
        return assignment
    try:
        default = look_up(plain_values(config), assignment.key)
    except (KeyError, TypeError):
        if (override.is_add() or override.is_force_add()) and is_argument(assignment.key):
            return assignment  # later compared with the constructor's signature
        options = {group: checker.options(group) for group in checker.groups()}
        known = {**plain_values(without_hydra(config)), **dict.fromkeys(checker.command_keys)}
        checker.report(unknown_key(assignment.key, known, config.hydra.runtime.choices, options, checker.keys_of))
        return None
    if override.is_delete():
        if assignment.key in {each.key for each in config_keys()}:
            checker.report(f"{assignment.line}: {assignment.key} cannot be removed, because every run needs it.")
            return None
        return assignment
    if isinstance(default, str) and default.startswith("${"):
        default = OmegaConf.select(config, assignment.key, throw_on_resolution_failure=False)
    values = plain_values(config)
    fitting = [each for each in assignment.alternatives if matches_type(each, default, values, checker)]
    return replace(assignment, alternatives=tuple(fitting)) if fitting else None


def is_argument(key: str) -> bool:
    """Return whether a key can be a constructor argument, which the YAML file need not list."""
    return any(key.startswith(f"{place.rstrip('*.')}.") for place in TARGETS)


def matches_type(override: Override, default: Any, values: Mapping[str, Any], checker: OverrideChecker) -> bool:
    """Return whether a value has the type of its key's default, and report a mistake if not.

    Return True for a key whose default is null, and for a key with a declared type, which `check` validates.
    """
    key, value = override.key_or_group, override.value()
    if isinstance(default, Mapping | DictConfig):
        if not isinstance(value, Mapping):
            keys = ", ".join(f"{key}.{name}" for name in default if not str(name).startswith("_"))
            checker.report(f"{override.input_line}: {key} is a section; set one of its keys: {keys}.")
        return isinstance(value, Mapping)
    is_reference = isinstance(value, str) and value.startswith("${")
    if default is None or is_reference or type_of_key(key, values) is not None:
        return True
    if isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        right, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        right, kind = not isinstance(value, Mapping | list), "one value"
    else:
        right, kind = isinstance(value, list), "a list such as [a,b]"
    if not right:
        usual = "" if default == "???" else f" (default: {default})"
        checker.report(f"{override.input_line}: {key} must be {kind}{usual}.")
    return right


def without_effect(assignments: Sequence[Assignment], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each assigned key that has no effect in any job because of another key's value."""
    lines = {assignment.key: assignment.line for assignment in assignments}
    swept = {assignment.key for assignment in assignments if len(assignment.alternatives) > 1}
    idle = [(key, each) for key, _, markers in declared() for each in markers if isinstance(each, NoEffect)]
    for key, marker in idle:
        if key in lines and marker.other not in swept:
            try:
                value = look_up(config, marker.other)
            except KeyError:
                continue  # the selected choice lacks the other key
            if marker.when(value):
                yield f"{lines[key]} has no effect with {marker.other}={spelled(value)}; leave one of them out."


def wrong_study_of_debug(config: DictConfig) -> Iterator[str]:
    """Yield an error message if a debug preset would put its run into a study of other runs."""
    debug = config.hydra.runtime.choices.get("debug")
    study = OmegaConf.select(config, "study", throw_on_resolution_failure=False)
    if debug not in (None, "null") and not str(study).startswith("debug"):
        yield (
            f"study={study}: with debug={debug}, the name of the study must start with debug, so that its runs are not "
            f"compared with other runs. Leave out study, or write study=debug-{study}."
        )


def unread_data_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each key of the data section that neither the schema nor an interpolation uses.

    `config` must still have its interpolations, because a source may read `${data.folder}/train.csv`.
    """
    data = config.get("data")
    if not isinstance(data, Mapping):
        return  # `check` reports this
    interpolations = " ".join(re.findall(r"\$\{[^}]*", str(config)))
    declared_keys = [*DataConfig.model_fields]
    for key, value in data.items():
        if not isinstance(key, str) or not is_unicode(key):
            continue  # `check` reports this
        if key not in declared_keys and not re.search(rf"\b{re.escape(key)}\b", interpolations):
            near = nearest_keys(f"data.{key}", [f"data.{each}" for each in (*declared_keys, *data) if each != key])
            yield f"data.{shown(key)}={shown(value)}: nothing reads this key{nearest(near)}."


def without_hydra(config: DictConfig) -> DictConfig:
    copied = copy.deepcopy(config)
    with open_dict(copied):
        copied.pop("hydra", None)
    return copied


def check_values(config: DictConfig, checker: OverrideChecker) -> Config | None:
    """Resolve and check the config of one job, and report its mistakes. Return None if a value is wrong."""
    plain = plain_values(config)
    unset = [path for path, value in flatten(plain) if value == "???"]
    for path in unset:
        key = ".".join(map(str, path))
        if checker.mode != "show" and not any(mistake.startswith(f"{key}=") for mistake in checker.mistakes):
            checker.report(f"{key} has no value: set {key}=...")
        section = plain
        for part in path[:-1]:
            section = section[part]
        section[path[-1]] = "missing"  # a placeholder, so that the other keys can be checked
    try:
        checked = check(resolve(OmegaConf.create(plain) if unset else config))
    except UserError as error:  # some value cannot be resolved
        for mistake in str(error).splitlines():
            checker.report(mistake)
        return None
    mistakes = [*checked.mistakes, *unread_data_keys(plain), *missing_packages(checked.config)]
    known = {mistake.partition("=")[0] for mistake in mistakes}
    on_paths = [] if unset else wrong_paths(checked.config)
    mistakes += [mistake for mistake in on_paths if mistake.partition("=")[0] not in known]
    for mistake in mistakes:
        checker.report(mistake)
    return None if mistakes else checked.config
