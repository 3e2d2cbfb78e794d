"""Name each group of a study by its head and by the config values that distinguish it from other groups."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from imdbcls.comparison.run_files import Run, sanitize

# Config keys that do not distinguish groups: seeds, paths, names, and how a run is executed and recorded.
IRRELEVANT = re.compile(
    r"seed|.*\.order_seed|study|device|jobs|progress|plugins|(tracker|checkpoint)\..*|.*(_dir|folder|name|_target_)"
)
MAX_CONFIG_ENTRIES = 2_000


def distinct_names(runs: list[Run]) -> list[str]:
    """Return a distinct name for each group. `runs` contains one run of each group.

    The name starts with the name of the head. If several groups have the same head, up to three config values in which
    they differ are appended. If two names are still equal, the start of the `group_hash` is appended to both.
    """
    heads = [sanitize(run.result["head"], 60) for run in runs]
    if len(set(heads)) == len(heads):
        return heads
    choices = choices_of(runs)
    names = []
    for i, head in enumerate(heads):
        same_head = [j for j in range(len(runs)) if heads[j] == head and j != i]
        differing = [key for key in choices[i] if any(choices[j].get(key) != choices[i][key] for j in same_head)]
        differing.sort(key=lambda key: (key.count("."), key))
        # dict.fromkeys removes duplicates: lr and optimizer.lr give the same text.
        details = list(
            dict.fromkeys(f"{key.rsplit('.', 1)[-1]}={sanitize(str(choices[i][key]), 30)}" for key in differing)
        )
        names.append(" ".join([head, *details[:3]]) if same_head else head)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {sanitize(run.result['group_hash'], 8)}" if name in repeated else name
        for name, run in zip(names, runs, strict=True)
    ]


def choices_of(runs: list[Run]) -> list[dict[str, Any]]:
    """Return, by dotted key, the config values of each run that can distinguish its group from other groups.

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
