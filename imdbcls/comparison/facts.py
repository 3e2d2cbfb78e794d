"""Collect what was compared: encoder, data, training, hardware, versions and dates.

The facts come from configs and `result.json` files, which may be untrusted, incomplete, or missing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from imdbcls.comparison.group import Group
from imdbcls.comparison.naming import flatten
from imdbcls.comparison.run_files import Run, number, sanitize

Fact = str | int | float | None
FILM_SOURCES = ("imdbcls.data.imdb.read_imdb", "imdbcls.data.sample.read_sample")  # their clusters are films
PACKAGES = ("imdbcls", "torch", "transformers")
MAX_SETTINGS = 200  # largest number of config keys in the result
NO_SETTING = re.compile(
    r"seed|backbone\.recommended_lr|data\.order_seed|study|jobs|progress|plugins|runs_dir|.*\._(partial|convert)_"
)


def facts_of(groups: Sequence[Group]) -> dict[str, tuple[str | int | float, ...]]:
    """Return the distinct values of each fact: numbers in ascending order, strings in the order of the groups.

    A fact that is unknown for at least one run is left out.
    """
    runs = [run for group in groups for run in group.runs]
    facts = {name: distinct(fact(run) for run in runs) for name, fact in FACTS.items()}
    facts["test_documents"] = distinct(len(group.ids) for group in groups)
    facts["test_clusters"] = distinct(None if g.clusters_N is None else g.num_independent for g in groups)
    return {name: values for name, values in facts.items() if values}


def distinct(values: Iterable[Fact]) -> tuple[str | int | float, ...]:
    """Return each value once: in ascending order if all are numbers, else in the order of first occurrence.

    Return an empty tuple if a value is None.
    """
    found = dict.fromkeys(values)
    if None in found:
        return ()
    known = [value for value in found if value is not None]
    numbers = [value for value in known if not isinstance(value, str)]
    return tuple(sorted(numbers)) if len(numbers) == len(known) else tuple(known)


def setting(run: Run, *keys: str) -> Any:
    """Return the value under nested `keys` (outermost first) of the run's config, or None if a key is missing."""
    return nested(run.config, keys)


def recorded(run: Run, *keys: str) -> Any:
    """Return the value under nested `keys` (outermost first) of `result.json`, or None if a key is missing."""
    return nested(run.result, keys)


def nested(values: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def text(value: Any) -> str | None:
    return sanitize(value, 60) or None if isinstance(value, str) else None


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def encoder_parameters(run: Run) -> int | None:
    total, head = whole(recorded(run, "parameters")), whole(recorded(run, "head_parameters"))
    return None if total is None or head is None or total <= head else total - head


def encoder_training(run: Run) -> str | None:
    rank, freeze = setting(run, "backbone", "lora_rank"), setting(run, "backbone", "freeze")
    if whole(rank):
        return f"LoRA rank {whole(rank)}"
    return {True: "frozen", False: "fine-tuned"}.get(freeze) if isinstance(freeze, bool) else None


def cluster_name(run: Run) -> str | None:
    """Return "films" or "values of <column>" as a name for the clusters, or None if no name is known."""
    source = setting(run, "data", "source")
    if nested(source, ["_target_"]) in FILM_SOURCES:
        return "films"
    column = text(setting(run, "data", "group_column"))
    return {"film": "films", "movie": "films"}.get(column, f"values of {column}") if column else None


def truncation(run: Run) -> str | None:
    return text(setting(run, "data", "truncation"))


def date(run: Run) -> str | None:
    """Return the day on which the run finished, such as `2026-11-28`, or None if it is not known."""
    try:
        return datetime.fromisoformat(str(recorded(run, "finished_at"))).date().isoformat()
    except ValueError:
        return None


def version_of(package: str) -> Callable[[Run], Fact]:
    return lambda run: text(recorded(run, "versions", package))


FACTS: dict[str, Callable[[Run], Fact]] = {
    "encoder": lambda run: text(recorded(run, "backbone")),
    "encoder_parameters": encoder_parameters,
    "encoder_training": encoder_training,
    "data": lambda run: text(setting(run, "data", "name")),
    "train_documents": lambda run: whole(recorded(run, "train_documents")),
    "validation_documents": lambda run: whole(recorded(run, "token_counts", "validation", "documents")),
    "cluster_name": cluster_name,
    "max_length": lambda run: whole(recorded(run, "max_length")),
    "truncation": truncation,
    "epochs": lambda run: number(setting(run, "epochs")),
    "lr": lambda run: number(setting(run, "lr")),
    "batch_size": lambda run: whole(setting(run, "batch_size")),
    "precision": lambda run: text(recorded(run, "precision")),
    "hardware": lambda run: text(recorded(run, "hardware")),
    **{name: version_of(name) for name in PACKAGES},
    "date": date,
}


def settings_of(groups: Sequence[Group]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return two dicts by dotted config key: keys with the same value in all groups, and keys whose values differ.

    The second dict has, for each key, one value per group, in the order of `groups`. The value is "" for a group
    without the key. Keys that match `NO_SETTING` are left out, and so are keys beyond the first `MAX_SETTINGS`.
    """
    configs = [
        {sanitize(str(key), 80): value_text(value) for key, value in flatten(group.runs[0].config or {})}
        for group in groups
    ]
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if not NO_SETTING.fullmatch(key)]
    shared: dict[str, str] = {}
    differing: dict[str, tuple[str, ...]] = {}
    for key in keys[:MAX_SETTINGS]:
        values = tuple(config.get(key, "") for config in configs)
        if len(set(values)) == 1:
            shared[key] = values[0]
        else:
            differing[key] = values
    return shared, differing


def value_text(value: Any) -> str:
    """Return a config value as one line of at most 120 characters, with `null`, `true` and `false` as in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return sanitize(str(value), 120)
