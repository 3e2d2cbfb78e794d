"""Find the config keys in which groups differ, and name the groups by them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from imdbcls.comparison.run_files import Run, sanitize

# Keys that do not affect what is trained.
IRRELEVANT = re.compile(
    r"seed|.*\.order_seed|study|device|jobs|progress|plugins|(tracker|checkpoint)\..*|.*(_dir|folder|name|_target_)"
)
MAX_CONFIG_CHOICES = 2_000


def distinct_names(runs: list[Run]) -> list[str]:
    """Return a distinct name for each run's group: the head's name, plus what else is needed.

    Groups with the same head also get up to three config values that differ, or a short hash if none differ.
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
        # The dict removes duplicates, because optimizer.lr repeats lr.
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
    """Return the config values of each run that may distinguish it from the others, by dotted key.

    If all runs have the same documents (split_hash), the keys of the data source are left out. If all have the same
    encoder (backbone_content), its path is left out.
    """
    found = [dict(flatten(run.config)) for run in runs]
    without = [IRRELEVANT]
    if all_equal(run.result.get("split_hash") for run in runs):
        sources = {key.removeprefix("data.source.") for choice in found for key in choice if "data.source." in key}
        without.append(re.compile("|".join(["data[.]source[.].*", *(f"data[.]{re.escape(key)}" for key in sources)])))
    if all_equal(run.result.get("backbone_content") for run in runs):
        without.append(re.compile(r"backbone\.path"))
    return [
        {key: value for key, value in choice.items() if not any(pattern.fullmatch(key) for pattern in without)}
        for choice in found
    ]


def all_equal(values: Iterable[Any]) -> bool:
    """Return whether all values are the same string. A missing value makes it False."""
    first, *others = values
    return isinstance(first, str) and all(other == first for other in others)


def flatten(config: dict[str, Any], prefix: str = "", budget: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield at most `MAX_CONFIG_CHOICES` values with dotted keys, because YAML aliases can expand without bound."""
    budget = [MAX_CONFIG_CHOICES] if budget is None else budget
    for key, value in config.items():
        budget[0] -= 1
        if budget[0] < 0:
            return
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.", budget)
        else:
            yield f"{prefix}{key}", value
