"""Suggest what a user may have meant: the nearest keys and choices, and which choice has a key."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from imdbcls.config.other_names import OTHER_NAMES

NUM_NEAREST = 3  # keys or choices that a sentence suggests at most
HELP = "python -m imdbcls.train --help lists them"


def nearest(names: Sequence[str]) -> str:
    return f"; the nearest: {', '.join(names)}" if names else ""


def unknown_key(
    key: str,
    config: Mapping[str, Any],
    chosen: Mapping[str, Any],
    options: Mapping[str, Sequence[str]],
    keys_of: Callable[[str, str], set[str]],
) -> str:
    """Return the sentence on a key that does not exist: who has it, or what is nearest.

    `chosen` is each group's choice, `options` all of them, and `keys_of(group, choice)` what one brings.
    """
    section, _, rest = key.partition(".")
    if section in options and rest:
        name = rest.partition(".")[0]
        owners = [choice for choice in options[section] if name in keys_of(section, choice)]
        choice = chosen.get(section, "null")  # absent where the group was set to null
        if owners and choice not in owners:
            return f"{key}: {section}={choice} has no {name}; it belongs to {section}={','.join(owners)}."
    if key in OTHER_NAMES:
        return f"{key}: there is no such key; use {OTHER_NAMES[key]}."
    near = nearest_keys(key, [*options, *all_keys(config)])
    return f"{key}: there is no such key{nearest(near)}." if near else f"{key}: there is no such key; {HELP}."


def nearest_keys(key: str, known: Collection[str]) -> list[str]:
    """Return the keys with the same last part, then those spelt alike."""
    tail = key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == tail]
    return list(dict.fromkeys([*same, *get_close_matches(key, known, NUM_NEAREST)]))[:NUM_NEAREST]


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key that a user sets, dotted: not names that only label a choice, nor Hydra's own (`_target_`)."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not str(name).startswith("_") and name != "name":
                yield f"{prefix}{name}"
                yield from all_keys(value, f"{prefix}{name}.")
