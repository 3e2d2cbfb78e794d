"""What a configuration chose, and how groups are named by what tells them apart."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from imdbcls.comparison.run_files import Run, plain

# Choices that say nothing about what was trained.
UNTELLING = re.compile(
    r"seed|.*\.order_seed|study|device|jobs|progress|plugins|(tracker|checkpoint)\..*|.*(_dir|folder|name|_target_)"
)
MAX_CONFIG_CHOICES = 2_000


def distinct_names(runs: list[Run]) -> list[str]:
    """The head's name; where heads repeat, also the (at most three) choices that differ; a short hash if none do."""
    heads = [plain(run.result["head"], 60) for run in runs]
    if len(set(heads)) == len(heads):
        return heads
    choices = choices_of(runs)
    names = []
    for i, head in enumerate(heads):
        rivals = [j for j in range(len(runs)) if heads[j] == head and j != i]
        differing = [key for key in choices[i] if any(choices[j].get(key) != choices[i][key] for j in rivals)]
        differing.sort(key=lambda key: (key.count("."), key))
        # A group's lr repeats the knob's.
        details = list(
            dict.fromkeys(f"{key.rsplit('.', 1)[-1]}={plain(str(choices[i][key]), 30)}" for key in differing)
        )
        names.append(" ".join([head, *details[:3]]) if rivals else head)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {plain(run.result['group_hash'], 8)}" if name in repeated else name
        for name, run in zip(names, runs, strict=True)
    ]


def choices_of(runs: list[Run]) -> list[dict[str, Any]]:
    """The choices of each run that may distinguish it from the others, by their dotted keys.

    Where all runs have the same documents (split_hash), it does not matter from where; the same for the encoder.
    """
    found = [dict(leaves(run.config)) for run in runs]
    without = [UNTELLING]
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
    """Whether these are all the same text; not where one is missing."""
    first, *others = values
    return isinstance(first, str) and all(other == first for other in others)


def leaves(config: dict[str, Any], prefix: str = "", budget: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The configuration's leaves as dotted keys, a limited number of them: YAML aliases can unfold endlessly."""
    budget = [MAX_CONFIG_CHOICES] if budget is None else budget
    for key, value in config.items():
        budget[0] -= 1
        if budget[0] < 0:
            return
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.", budget)
        else:
            yield f"{prefix}{key}", value
