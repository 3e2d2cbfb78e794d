"""Name each group of a study by its head and by the choices in which the groups differ."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from imdbcls.comparison.run_files import sanitize
from imdbcls.runs.shipped import NAMED, TARGETED, choice_of

# Config keys that do not distinguish groups: seeds, paths, names, and how a run is executed and recorded.
IRRELEVANT = re.compile(
    r"seed|.*\.order_seed|study|device|jobs|progress|plugins|(tracker|checkpoint)\..*|.*(_dir|folder|name|_target_)"
)
MAX_CONFIG_ENTRIES = 2_000
MAX_VARIED = 8  # choices in a name
MAX_VALUE = 30  # characters of a value in a name


class Described(Protocol):
    """A run with its `result.json` and its config, both as plain values."""

    @property
    def result(self) -> dict[str, Any]: ...

    @property
    def config(self) -> dict[str, Any]: ...


def distinct_names(runs: Sequence[Described], varied: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a distinct name for each group. `runs` contains one run of each group.

    A name is the head, followed by the first `MAX_VARIED` choices in `varied` (see `varied_choices`). If two names are
    equal, the start of the `group_hash` is appended to both.
    """
    heads = [sanitize(str(run.result["head"]), 60) for run in runs]
    details = [[f"{key}={value}" for key, value in choices.items()] for choices in varied]
    names = [
        " ".join([head, *found[:MAX_VARIED], *(["\N{HORIZONTAL ELLIPSIS}"] if len(found) > MAX_VARIED else [])])
        for head, found in zip(heads, details, strict=True)
    ]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {sanitize(str(run.result['group_hash']), 8)}" if name in repeated else name
        for name, run in zip(names, runs, strict=True)
    ]


def varied_choices(runs: Sequence[Described]) -> list[dict[str, str]]:
    """Return, for each group, the values of the sections and config keys in which the groups differ.

    `runs` contains one run of each group. A section, such as `backbone`, has the name of its choice as its value. The
    head is left out. A key is included only if its value differs between groups that have the same choice of its
    section, because other choices have other keys. A key is named by its last part. If two keys with different values
    have the same last part, the second key keeps its full name. A group without the key has no entry.
    """
    if len(runs) < 2:
        return [{} for _ in runs]
    sections, choices = [chosen_sections(run) for run in runs], choices_of(runs)
    varied: dict[str, tuple[str | None, ...]] = {}  # name of the choice: value of each group
    for section in dict.fromkeys(name for found in sections for name in found):
        values = tuple(found.get(section) for found in sections)
        if section != "head" and len(set(values)) > 1:
            varied[section] = values
    for key in sorted({key for choice in choices for key in choice}, key=lambda key: (key.count("."), key)):
        values = tuple(value_in_name(choice[key]) if key in choice else None for choice in choices)
        by_choice = defaultdict(set)
        for found, value in zip(sections, values, strict=True):
            by_choice[found.get(key.partition(".")[0])].add(value)
        if any(len(different) > 1 for different in by_choice.values()):
            short = key.rpartition(".")[2]
            if short not in varied:
                varied[short] = values
            elif any(value not in (None, other) for value, other in zip(values, varied[short], strict=True)):
                varied[key] = values  # the two keys have different values
    return [
        {key: value for key, values in varied.items() if (value := values[i]) is not None} for i in range(len(runs))
    ]


def chosen_sections(run: Described) -> dict[str, str]:
    """Map each config section to the name of its choice. Sections whose choice is not known are left out."""
    chosen = {"head": sanitize(str(run.result["head"]), 60)}
    if "backbone" in run.result:
        chosen["backbone"] = sanitize(str(run.result["backbone"]), 60)
    for section in (*NAMED, *TARGETED):
        try:
            chosen.setdefault(section, sanitize(choice_of(section, run.config[section]), 60))
        except (KeyError, TypeError):  # the config may be untrusted or from another tool
            continue
    return chosen


def value_in_name(value: Any) -> str:
    """Return a config value as text for a name, with `null`, `true` and `false` as in YAML.

    Floats have three significant digits. Only the end of a long path is kept.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = sanitize(f"{value:.3g}" if isinstance(value, float) else str(value), 200)
    return f"…{text[1 - MAX_VALUE :]}" if "/" in text and len(text) > MAX_VALUE else sanitize(text, MAX_VALUE)


def choices_of(runs: Sequence[Described]) -> list[dict[str, Any]]:
    """Return the config of each run by dotted key, without the keys that cannot distinguish groups.

    Leave out the keys that match `IRRELEVANT`. Also leave out the keys of the data source if all runs have the same
    documents (`split_hash`), and the encoder's path if all runs have the same encoder (`backbone_content`).
    """
    found = [dict(flatten(run.config)) for run in runs]
    excluded = [IRRELEVANT]
    if all_equal(run.result.get("split_hash") for run in runs):
        sources = {key.removeprefix("data.source.") for choice in found for key in choice if "data.source." in key}
        excluded.append(re.compile("|".join(["data[.]source[.].*", *(f"data[.]{re.escape(key)}" for key in sources)])))
    if all_equal(run.result.get("backbone_content") for run in runs):
        excluded.append(re.compile(r"backbone\.path"))
    return [
        {key: value for key, value in choice.items() if not any(pattern.fullmatch(key) for pattern in excluded)}
        for choice in found
    ]


def all_equal(values: Iterable[Any]) -> bool:
    """Return whether all values are the same string. Return False if a value is None."""
    first, *others = values
    return isinstance(first, str) and all(other == first for other in others)


def flatten(config: dict[str, Any], prefix: str = "", budget: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry of a nested config.

    Stop after `MAX_CONFIG_ENTRIES` entries, because YAML aliases in an untrusted config can expand without bound.
    """
    budget = [MAX_CONFIG_ENTRIES] if budget is None else budget
    for key, value in config.items():
        budget[0] -= 1
        if budget[0] < 0:
            return
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.", budget)
        else:
            yield f"{prefix}{key}", value
