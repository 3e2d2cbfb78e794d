"""Limit what YAML files from untrusted sources may set.

`--config-dir=FOLDER` and `hydra.searchpath` add YAML files that may be untrusted. Such a file may select
choices and set keys. Only the command line (or the arguments of `imdbcls.compose`) may name packages to import
(`plugins`), read environment variables, name the W&B account, and configure Hydra itself: its launcher, logging,
callbacks and folders.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString, Sweep
from omegaconf import DictConfig, OmegaConf

from imdbcls.printable import shown

ENTITY = "tracker.entity"
# Hydra's own keys that a YAML file may set: the keys of a sweep, and the verbosity.
ALLOWED_IN_FILES = re.compile(r"hydra\.(mode|verbose|sweeper\.params(\..*)?|sweeper\.max_batch_size)")
# Keys that Hydra itself fills in. `hydra.overrides` is checked separately. The other keys only describe the
# composition.
FILLED_IN = re.compile(
    r"hydra\.(overrides|searchpath|runtime\.(choices|config_sources|cwd)|job\.override_dirname)(\..*)?"
)
ADDED_BY_HYDRA = ("hydra.mode=RUN", "hydra.mode=MULTIRUN")
# Interpolations that refer only to other keys or to the time.
SAFE_INTERPOLATION = re.compile(r"\$\{(\.*[\w.\[\]]+|now:[\w%:,. -]*|hydra:[\w.]+)\}")


@dataclass(frozen=True)
class Named:
    """The Hydra settings, packages (`plugins=[...]`), W&B entities and interpolations on a command line."""

    settings: frozenset[str | None] = frozenset()
    plugins: frozenset[str] = frozenset()
    entities: frozenset[str] = frozenset()
    interpolations: frozenset[str] = frozenset()


def named_by(overrides: Sequence[Override]) -> Named:
    """Return the Hydra settings, packages, W&B entities and interpolations in the overrides of a command line."""
    plugins: set[str] = set()
    entities: set[str] = set()
    interpolations: set[str] = set()
    for override in overrides:
        texts = set(strings_in(override._value))
        interpolations |= {text for text in texts if "${" in text}
        if override.key_or_group == "plugins":
            plugins |= texts
        if override.key_or_group == ENTITY:
            entities |= texts
    settings = frozenset(override.input_line for override in overrides if override.is_hydra_override())
    return Named(settings, frozenset(plugins), frozenset(entities), frozenset(interpolations))


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string in an override's value, including the alternatives of a sweep."""
    if isinstance(value, QuotedString):
        yield value.text
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, Sweep):
        yield from strings_in(getattr(value, "list", None))


def outside(sources: Iterable[Any]) -> bool:
    """Return whether any YAML source is a folder that the command adds, rather than an installed package."""
    return any(
        source.provider == "command-line" or source.provider.startswith("hydra.searchpath") for source in sources
    )


def unnamed_settings(overrides: Iterable[Override], named: Named) -> Iterator[str]:
    """Yield an error message for each override of Hydra's own keys that comes from a file's `hydra.sweeper.params`."""
    for override in overrides:
        if override.is_hydra_override() and override.input_line not in (*named.settings, *ADDED_BY_HYDRA):
            line = override.input_line
            yield f"{line} is refused: it comes from a YAML file, but only the command may configure Hydra."


def wrong_settings_of_files(
    cfg: DictConfig, overrides: Sequence[Override], named: Named, trusted_hydra: Mapping[str, Any]
) -> list[str]:
    """Return an error message for each forbidden setting that untrusted YAML files add to a composed config.

    `overrides` are the overrides that the config was composed with. `trusted_hydra` is Hydra's section composed without
    the added YAML files.
    """
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    config = {str(key): value for key, value in values.items() if key != "hydra"}
    return [
        *unnamed_plugins(OmegaConf.select(cfg, "plugins", throw_on_resolution_failure=False), named),
        *unnamed_entity(OmegaConf.select(cfg, ENTITY, throw_on_resolution_failure=False), named),
        *foreign_settings(values["hydra"], trusted_hydra, overrides),
        *foreign_interpolations({**config, "hydra.sweeper.params": params_of(values["hydra"])}, named),
    ]


def params_of(hydra: Mapping[str, Any]) -> Any:
    sweeper = hydra.get("sweeper")
    return sweeper.get("params") if isinstance(sweeper, Mapping) else None


def unnamed_plugins(plugins: Any, named: Named) -> Iterator[str]:
    """Yield an error message for each plugin that the command line does not name."""
    for plugin in plugins if isinstance(plugins, Sequence) and not isinstance(plugins, str) else [plugins]:
        if plugin is not None and plugin not in named.plugins:
            package = shlex.quote(f"plugins=[{shown(plugin)}]")
            yield (
                f"plugins={shown(plugin)} is refused: it comes from a YAML file, but only the command may name "
                f"packages to import. If you trust the package, add {package} to the command."
            )


def unnamed_entity(entity: Any, named: Named) -> Iterator[str]:
    """Yield an error message for a W&B account in a file: an untrusted file could send documents to another account."""
    if entity is not None and entity not in (*named.entities, os.environ.get("WANDB_ENTITY")):
        own = shlex.quote(f"{ENTITY}={shown(entity)}")
        yield (
            f"{ENTITY}={shown(entity)} is refused: it comes from a YAML file, but only the command or WANDB_ENTITY may "
            f"name the W&B account to upload to. If you trust the account, add {own} to the command."
        )


def foreign_settings(
    found: Mapping[str, Any], trusted: Mapping[str, Any], overrides: Sequence[Override]
) -> Iterator[str]:
    """Yield an error message for each of Hydra's own settings that YAML files changed without permission."""
    task, own = found["overrides"]["task"], found["overrides"]["hydra"]
    if task != [each.input_line for each in overrides if not each.is_hydra_override()] or own != [
        each.input_line for each in overrides if each.is_hydra_override()
    ]:
        yield (
            "hydra.overrides is refused: it comes from a YAML file, but Hydra must record the command line in this "
            "key. Leave the key out."
        )
    chosen, trusted_chosen = found["runtime"]["choices"], trusted["runtime"]["choices"]
    groups = [group for group in chosen if group.startswith("hydra/") and chosen[group] != trusted_chosen.get(group)]
    for group in groups:
        yield (
            f"{group}={shown(chosen[group])} is refused: it comes from a YAML file, but only the command may configure "
            f"Hydra. If you trust the file, add {shlex.quote(f'{group}={chosen[group]}')} to the command."
        )
    sections = tuple(group.replace("/", ".") for group in groups)
    for key, value in different_values(found, trusted):
        if not (ALLOWED_IN_FILES.fullmatch(key) or FILLED_IN.fullmatch(key) or key.startswith(sections or ("-",))):
            yield (
                f"{key}={shown(value)} is refused: it comes from a YAML file, which may set no Hydra keys except "
                "hydra.mode, hydra.sweeper.params, hydra.sweeper.max_batch_size and hydra.verbose. If you trust the "
                f"file, add {key}=... to the command."
            )


def different_values(found: Any, trusted: Any, path: str = "hydra") -> Iterator[tuple[str, Any]]:
    """Yield each dotted key whose value in `found` differs from `trusted`, with its value in `found` or None."""
    if isinstance(found, Mapping) and isinstance(trusted, Mapping):
        for key in {**trusted, **found}:
            yield from different_values(found.get(key), trusted.get(key), f"{path}.{key}")
    elif isinstance(found, Mapping) and found:
        for key, value in found.items():
            yield from different_values(value, None, f"{path}.{key}")
    elif found != trusted:
        yield path, found


def foreign_interpolations(node: Any, named: Named, path: str = "") -> Iterator[str]:
    """Yield an error message for each interpolation from a YAML file that calls a resolver other than `now` or `hydra`.

    The resolver `oc.env`, for example, reads environment variables.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from foreign_interpolations(value, named, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from foreign_interpolations(value, named, f"{path}[{index}]")
    elif isinstance(node, str) and "${" in SAFE_INTERPOLATION.sub("", node) and node not in named.interpolations:
        key = path.removeprefix("hydra.sweeper.params.")
        add = "write it in the command" if "[" in key else f"add {shlex.quote(f'{key}={node}')} to the command"
        yield (
            f"{key}={shown(node)} is refused: it comes from a YAML file, but only the command may read environment "
            f"variables and call resolvers. If you trust the file, {add}."
        )
