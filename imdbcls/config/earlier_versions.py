"""Convert a config that an earlier version recorded to the present form."""

from collections.abc import Mapping
from typing import Any

from imdbcls.config.key_types import AddedLater
from imdbcls.config.schema import Config
from imdbcls.config.section import Section, is_section


def with_later_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys that are newer than a run's config, each with the value in its marker `AddedLater`."""
    renamed = {"tracker": named_tracker(values["tracker"])} if "tracker" in values else {}
    return with_later_keys_of(Config, {**values, **renamed})


def with_later_keys_of(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            if isinstance(found.get(name), Mapping):
                found[name] = with_later_keys_of(field.annotation, found[name])
        else:
            for marker in (each for each in field.metadata if isinstance(each, AddedLater)):
                found.setdefault(name, marker.value)
    return found


def named_tracker(tracker: Any) -> Any:
    """Return the tracker section of a run's config in the present form, in which each tracker has its own section.

    Earlier versions had one tracker, whose `_target_` and arguments were the keys of `tracker` itself.
    """
    if not isinstance(tracker, Mapping) or "_target_" not in tracker:
        return tracker
    given = dict(tracker)
    shared: dict[str, Any] = {"mode": "auto", "project": None, "entity": None, "tags": [], "notes": None}
    shared |= {key: given.pop(key) for key in shared if key in given}
    if given["_target_"] == "imdbcls.tracking.none.NoTracker":
        return shared
    if given["_target_"] == "imdbcls.tracking.run.WandbTracker":
        return {**shared, "wandb": {**given, "_target_": "imdbcls.tracking.wandb.WandbTracker"}}
    return {**shared, "own": given}
