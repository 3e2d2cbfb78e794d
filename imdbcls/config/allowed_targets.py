"""Limit what a config may instantiate: Hydra calls whatever `_target_` names.

Hydra itself refuses some names, but not `torch.load` or `pandas.read_pickle`, which run code from a file. So a config
may name only imdbcls's own constructors, PyTorch's optimizers and schedulers, and packages listed in `plugins`.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imdbcls.config.signatures import own_definitions
from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runs.data_origin import READER_TARGET

# The allowed `_target_`s of each section. Any other `_target_` must come from a plugin.
TARGETS = {
    "backbone": re.compile(r"imdbcls\.models\.backbone\.\w+_backbone"),
    "head": re.compile(r"imdbcls\.heads\.\w+\.[A-Z]\w*"),
    "data.source": READER_TARGET,
    "loss": re.compile(r"imdbcls\.training\.losses\.[A-Z]\w*"),
    "optimizer": re.compile(r"(torch|imdbcls\.training)\.optim\.[A-Z]\w*"),
    "schedule": re.compile(r"imdbcls\.training\.optim\.[a-z]\w*|torch\.optim\.lr_scheduler\.[A-Z]\w*"),
    "tracker.*": re.compile(r"imdbcls\.tracking\.\w+\.\w+Tracker"),
}
PARTIAL = ("optimizer", "schedule", "tracker.*")  # training adds arguments to the constructors of these sections
# Hydra's other special keys. Each function returns whether a section may set the key to a value.
SPECIAL: dict[str, Callable[[str, Any], bool]] = {
    "_partial_": lambda place, value: value is (kind_of(place) in PARTIAL),
    "_convert_": lambda place, value: value in ("none", "partial", "object", "all"),
    "_recursive_": lambda place, value: isinstance(value, bool),
    "_args_": lambda place, value: False,
}
# The samplers of Hydra's Optuna sweeper: the only objects in Hydra's section that do not belong to Hydra or a plugin.
SAMPLERS = re.compile(r"optuna\.samplers\.[A-Z]\w*Sampler")
SAMPLER_KEYS = ("hydra.sweeper.sampler", "hydra.sweeper.sampler.independent_sampler")
# The allowed values of `class` in Hydra's logging settings. Python's logging calls the object that `class` names.
LOGGING_CLASSES = re.compile(r"logging\.(StreamHandler|FileHandler|NullHandler|Formatter)")
# The variables that `hydra.job.env_set` may set. Other variables, such as LD_PRELOAD and PYTHONPATH, can inject code.
VARIABLES = re.compile(r"(OMP|MKL|KMP|GOMP)_\w+|CUDA_VISIBLE_DEVICES|HF_HOME|IMDBCLS_CACHE|TOKENIZERS_PARALLELISM|TZ")


def kind_of(place: str) -> str:
    """Return the key of `TARGETS` for a section: its own name, or `tracker.*` for the section of a tracker."""
    return re.sub(r"tracker\.[^.]+", "tracker.*", place) if place.count(".") == 1 else place


def foreign_targets(config: Any, path: str = "") -> Iterator[str]:
    """Yield an error message for each of Hydra's keys with a forbidden value, and for each missing `_partial_`."""
    plugins = config.get("plugins", []) if isinstance(config, Mapping) and not path else []
    yield from _foreign_targets(config, path, tuple(plugins) if isinstance(plugins, list | tuple) else ())


def _foreign_targets(node: Any, path: str, plugins: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, Mapping):
        if kind_of(path) in PARTIAL and "_target_" in node and "_partial_" not in node:
            yield f"{path}._partial_ is missing: write _partial_: true in the section, because training adds arguments."
        for key, value in node.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not is_allowed(path, value, plugins):
                yield f"{place}={shown(value)} is refused: {refusal_of(value)}"
            if key in SPECIAL and not (SPECIAL[key](path, value) or is_of_plugin(node.get("_target_"), plugins)):
                yield f"{place}={shown(value)} is refused: this section does not allow this value. Leave {place} out."
            yield from _foreign_targets(value, place, plugins)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _foreign_targets(value, f"{path}[{index}]", plugins)


def refusal_of(target: Any) -> str:
    """Return the reason for refusing a `_target_`, as the end of an error message."""
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if module.startswith("imdbcls.") and name not in own_definitions(module):
        return (
            "this version of imdbcls has no such class or function. If this is a run of an earlier version, it can be "
            "compared but not loaded; train it again."
        )
    return (
        "this section may only use certain classes and functions of imdbcls and torch.optim, and packages that the "
        "command lists in plugins=[...] (or in --plugins, to read a finished run)."
    )


def is_of_plugin(target: Any, plugins: tuple[str, ...]) -> bool:
    return isinstance(target, str) and target.split(".")[0] in plugins


def is_allowed(place: str, target: Any, plugins: tuple[str, ...]) -> bool:
    if not isinstance(target, str):
        return False
    if is_of_plugin(target, plugins):
        return True
    if kind_of(place) not in TARGETS or not TARGETS[kind_of(place)].fullmatch(target):
        return False
    module, _, name = target.rpartition(".")
    return target.startswith("torch.") or name in own_definitions(module)


def foreign_parts_of_hydra(node: Any, path: str = "hydra") -> Iterator[str]:
    """Yield an error message for each unsafe setting in Hydra's own section.

    Hydra acts on this section before any config is validated. The section may instantiate only classes of Hydra,
    classes of Hydra plugins and Optuna's samplers. For Python's logging, it may use only the classes in
    `LOGGING_CLASSES`. Of the environment variables, it may set only `VARIABLES`.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            if (
                key == "_target_" and not is_part_of_hydra(path, value)
            ) or key == "()":  # logging calls the object that "()" names
                kinds = "samplers of optuna.samplers" if path in SAMPLER_KEYS else "classes of hydra and hydra_plugins"
                yield f"{path}.{key}={shown(value)} is refused: use only {kinds} here."
            if (
                f"{path}.{key}" == "hydra.sweeper.custom_search_space" and value is not None
            ):  # Optuna's sweeper calls the function that this key names
                yield (
                    f"{path}.{key}={shown(value)} is refused: the sweeper would call this function. Give the search "
                    "space in the command, such as 'lr=interval(1e-5,1e-4)'."
                )
            if key == "class" and not LOGGING_CLASSES.fullmatch(str(value)):
                yield f"{path}.class={shown(value)} is refused: use a stream or file handler of Python's logging."
            if path == "hydra.job.env_set" and not VARIABLES.fullmatch(str(key)):
                yield f"{path}.{key} is refused: a config may not set this variable; set it in the shell."
            yield from foreign_parts_of_hydra(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from foreign_parts_of_hydra(value, f"{path}[{index}]")
    elif isinstance(node, str) and node.startswith("ext://") and node not in ("ext://sys.stdout", "ext://sys.stderr"):
        yield f"{path}={shown(node)} is refused: only ext://sys.stdout and ext://sys.stderr are allowed."


def is_part_of_hydra(path: str, target: Any) -> bool:
    """Return whether the part of Hydra's section at `path` may instantiate a target."""
    if not isinstance(target, str):
        return False
    own = target.startswith(("hydra._internal.", "hydra_plugins."))
    return own or (path in SAMPLER_KEYS and SAMPLERS.fullmatch(target) is not None)


def wrong_plugins(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each plugin that is not a package of the user.

    With `os` as a plugin, for example, a config could call any function in it.
    """
    plugins = config.get("plugins", [])
    if not isinstance(plugins, list | tuple):
        yield f"plugins={shown(plugins)} is not a list of packages. Write plugins=[my_package]."
        return
    for plugin in plugins:
        if not isinstance(plugin, str) or not plugin.isidentifier() or plugin in libraries():
            yield (
                f"plugins={shown(plugin)} is refused: list a package of your own by its import name, such as "
                "my_package, not a standard module or a library that imdbcls needs."
            )


@cache
def libraries() -> frozenset[str]:
    """Return the names of the standard modules, imdbcls and all its dependencies. None of them may be a plugin."""
    names, pending = set[str](), ["imdbcls"]
    while pending:
        name = canonicalize_name(pending.pop())
        if name not in names:
            names.add(name)
            pending += needed_by(name)
    modules = {
        module
        for module, distributions in packages_distributions().items()
        if names.intersection(map(canonicalize_name, distributions))
    }
    return frozenset({*sys.stdlib_module_names, "imdbcls", "hydra", "torch"} | modules)


def needed_by(distribution: str) -> Iterator[str]:
    """Yield the names of the distributions that a distribution requires."""
    try:
        requirements = map(Requirement, requires(distribution) or ())
    except PackageNotFoundError:  # a dependency for another platform, or of an extra
        return
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def is_borrowed(target: str, found: Any) -> bool:
    """Return whether a target names something that its package does not define, or that is not a class or function.

    `found` is the object that the target names. `my_package.os.system`, for example, is borrowed from `os`.
    """
    home = "torch.optim" if target.startswith("torch.optim.") else target.split(".")[0]
    is_code = inspect.isclass(found) or inspect.isfunction(found) or inspect.ismethod(found)
    defined_in = f"{getattr(found, '__module__', None)}."
    return not is_code or ".__" in target or not defined_in.startswith(f"{home}.")


def borrowed_targets(node: Any) -> Iterator[str]:
    """Import every `_target_` at any depth. Yield an error message for each target that its package does not define."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and is_borrowed(target, locate(target)):
            yield f"_target_={target} is refused: {target.split('.')[0]} does not define it."
        for value in node.values():
            yield from borrowed_targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from borrowed_targets(value)


def locate(target: str) -> Any:
    """Return the object that a dotted name refers to; raise UserError if it does not exist or its import fails."""
    first, *parts = target.split(".")
    path = first
    try:
        found: Any = importlib.import_module(first)
        for part in parts:
            path = f"{path}.{part}"
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(path)
    except Exception as error:  # importing a plugin may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"_target_={target} cannot be imported: {reason}") from error
    return found


def interpolations(node: Any, path: str = "") -> Iterator[str]:
    """Yield an error message for each interpolation.

    A resolved config contains none. An interpolation in an untrusted file could read environment variables.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from interpolations(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from interpolations(value, f"{path}[{index}]")
    elif isinstance(node, str) and "${" in node:
        yield f"{path} contains an interpolation, which is not allowed."
