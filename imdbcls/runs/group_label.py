"""Label the group of a run by its choices, such as `lstm minilm bidirectional=true lr=3e-05`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from imdbcls.printable import printable_line
from imdbcls.runs.content import with_content_hashes
from imdbcls.runs.identity import digest
from imdbcls.runs.shipped import NAMED, TARGETED, choices_of, default_choices, shipped_values

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

MAX_LENGTH = 120  # characters; a W&B alias has at most 128
MAX_VALUE_LENGTH = 40
CONTENT_HASH = "sha256:"

Path = tuple[str, ...]  # the parts of a dotted key


def group_label(config: "Config") -> str:
    """Return the head, every other choice that is not the default, and every key that differs from its shipped value.

    Runs that differ only in their seeds have the same label. Each key is compared with the shipped value of the same
    choice, so `head=lstm` gives `lstm`, although its keys differ from the keys of the default head. The label shows a
    local file or folder by its name and the start of its content hash. In a label of more than `MAX_LENGTH` characters,
    the start of the group hash replaces the last keys.
    """
    values, choices = config.plain(), config.choices(seeds=False)
    chosen, default = choices_of(choices), default_choices()
    names = [name for group, name in chosen.items() if group == "head" or name != default[group]]
    differing = dict(differences(choices, shipped_values(chosen), values))
    hashed = with_content_hashes(choices)
    keys = [f"{name}={text_of(differing[path], at(hashed, path))}" for path, name in short_names(choices, differing)]
    return shortened(" ".join([*names, *keys]), digest(choices)[:8])


def differences(values: Any, shipped: Any, config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the key and the value of each entry of nested `values` that differs from the shipped value.

    Interpolations in `shipped` are resolved in `config`, so `optimizer.lr` does not differ if it equals the run's `lr`.
    """
    for key, value in values.items():
        default = shipped.get(key, ...)
        if isinstance(default, str) and default.startswith("${"):
            default = at(config, tuple(default[2:-1].split(".")))
        if is_choice((*path, key), default):
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            yield from differences(value, default, config, (*path, key))
        elif value != default or isinstance(value, bool) != isinstance(default, bool):  # in Python, False == 0
            yield (*path, key), value


def is_choice(path: Path, default: Any) -> bool:
    """Return whether a key only identifies the choice of its section: `name`, or `_target_` of a user's own choice."""
    named = len(path) == 2 and path[0] in NAMED and path[1] == "name"
    return named or (len(path) == 2 and path[0] in (*NAMED, *TARGETED) and path[1].startswith("_") and default is ...)


def short_names(choices: Mapping[str, Any], differing: Mapping[Path, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the differing keys with their names in the label.

    The keys of the head come first, then the keys of the top level, then the keys of the other sections. The name is
    the last part of the key. If several keys have the same last part, they are written in full, except a key
    of the top level or of the head.
    """
    nested = [key for section in choices.values() if isinstance(section, Mapping) for key in section]
    used = Counter([*choices, *nested])
    for path in sorted(differing, key=lambda path: (path[0] != "head", len(path) > 1)):
        preferred = len(path) == 1 or (path[0] == "head" and path[1] not in choices)
        is_short = preferred or (len(path) == 2 and used[path[1]] == 1)
        yield path, path[-1] if is_short else ".".join(path)


def at(values: Any, path: Path) -> Any:
    """Return the value of a dotted key, or None if it does not exist."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def text_of(value: Any, hashed: Any) -> str:
    """Return a value as text. `hashed` is the same value with content hashes in place of paths."""
    if isinstance(value, Mapping):
        text = ",".join(f"{key}:{text_of(value[key], at(hashed, (key,)))}" for key in value)
    elif isinstance(value, list | tuple):
        pairs = zip(value, hashed, strict=True) if isinstance(hashed, list) and len(hashed) == len(value) else None
        text = ",".join(text_of(*pair) for pair in pairs or zip(value, value, strict=True))
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(hashed, str) and hashed != value and hashed.startswith(CONTENT_HASH):
        text = f"{PurePath(value).name}@{hashed.removeprefix(CONTENT_HASH)[:6]}"
    else:
        text = printable_line(str(value)).replace(" ", "_")
    return text if len(text) <= MAX_VALUE_LENGTH else f"…{text[1 - MAX_VALUE_LENGTH :]}"


def shortened(label: str, group_hash: str) -> str:
    """Return the label. If it is longer than `MAX_LENGTH` characters, replace its last words with the hash."""
    if len(label) <= MAX_LENGTH:
        return label
    kept = label[: MAX_LENGTH - len(group_hash) - 2]  # one for the space before the hash, one spare
    return f"{kept.rpartition(' ')[0] or kept} {group_hash}"
