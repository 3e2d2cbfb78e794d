"""Suggest similar names for a misspelt key or choice, or name the choices that have a key."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from imdbcls.config.other_names import OTHER_NAMES

NUM_NEAREST = 3  # maximum number of keys or choices that a message suggests
HELP = "python -m imdbcls.train --help lists them"


def nearest(names: Sequence[str]) -> str:
    """Return the end of an error message that suggests similar names; empty without names."""
    return f"; closest: {', '.join(names)}" if names else ""


def unknown_key(
    key: str,
    config: Mapping[str, Any],
    chosen: Mapping[str, Any],
    options: Mapping[str, Sequence[str]],
    keys_of: Callable[[str, str], set[str]],
) -> str:
    """Return the error message for a key that does not exist, with the choices that have the key, or with similar keys.

    `chosen` has the selected choice of each group, and `options` has all choices of each group. `keys_of(group,
    choice)` returns the keys that a choice adds.
    """
    section, _, rest = key.partition(".")
    if section in options and rest:
        name = rest.partition(".")[0]
        owners = [choice for choice in options[section] if name in keys_of(section, choice)]
        # Hydra does not record the choice of a group that was set to null, or to a list.
        choice, present = chosen.get(section, "null"), config.get(section)
        has_several = section not in chosen and isinstance(present, Mapping)
        if owners and choice not in owners and not (isinstance(present, Mapping) and name in present):
            having = " or ".join(f"{section}={owner}" for owner in owners)
            given = f"the chosen {section}" if has_several else f"{section}={choice}"
            return f"{key}: {given} has no key {name}; only {having} has it."
    if key in OTHER_NAMES:
        return f"{key}: there is no such key; use {OTHER_NAMES[key]}."
    near = nearest_keys(key, [*options, *all_keys(config)])
    return f"{key}: there is no such key{nearest(near)}." if near else f"{key}: there is no such key; {HELP}."


def nearest_keys(key: str, known: Collection[str]) -> list[str]:
    """Return the known keys with the same last part, then the keys with a similar spelling."""
    tail = key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == tail]
    return list(dict.fromkeys([*same, *get_close_matches(key, known, NUM_NEAREST)]))[:NUM_NEAREST]


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that a user may set; skip `name`, which labels a choice, and keys such as `_target_`."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not str(name).startswith("_") and name != "name":
                yield f"{prefix}{name}"
                yield from all_keys(value, f"{prefix}{name}.")
