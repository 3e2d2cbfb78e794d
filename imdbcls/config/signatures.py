"""Do the classes that a configuration names take the settings given to them? Asked before anything is loaded."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from imdbcls.config.allowed_targets import TARGETS, is_borrowed
from imdbcls.config.options import knobs
from imdbcls.config.validate import look_up
from imdbcls.errors import UserError

# What the builder gives in addition to the configuration.
GIVEN = {
    "head": {"hidden_size", "num_labels"},
    "loss": {"class_weights_C", "label_smoothing"},
    "optimizer": {"params"},
    "schedule": {"optimizer", "num_steps", "num_warmup_steps"},
    "tracker": {"identity", "config", "folder", "resumed_step"},
}
GIVEN_TO_ALL_LAYERS = "num_hidden_states"  # also given to a head with `reads_all_layers`


def require_settings(config: Mapping[str, Any]) -> None:
    """Raise UserError with a sentence for each setting that a class does not take, or needs and lacks."""
    own = {knob.key for knob in knobs()}  # those that the builder itself reads, such as backbone.freeze
    mistakes: list[str] = []
    for place in TARGETS:
        node = look_up(config, place)
        settings = [key for key in node if not key.startswith("_") and key != "name" and f"{place}.{key}" not in own]
        given = [key for key in node if not key.startswith("_")]
        mistakes += wrong_settings(place, node["_target_"], settings, given)
    if mistakes:
        raise UserError(*mistakes)


def wrong_settings(place: str, target: str, settings: list[str], given: list[str]) -> Iterator[str]:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        if is_borrowed(target, found):
            yield f"{place}._target_={target} is refused: {target.split('.')[0]} does not define it."
            return
        parameters = inspect.signature(found).parameters
    except Exception as error:  # a plugin may raise anything while it is imported
        reason = " ".join(str(error).split())[:300]
        yield f"{place}._target_={target} cannot be imported here: {reason}"
        return
    kinds = [parameter.kind for parameter in parameters.values()]
    from_builder = set(GIVEN.get(place, ()))
    if place == "head" and getattr(found, "reads_all_layers", False):
        from_builder.add(GIVEN_TO_ALL_LAYERS)
    taken = [name for name in parameters if name not in from_builder]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in sorted(from_builder & {GIVEN_TO_ALL_LAYERS} - parameters.keys()):
            yield f"{place}._target_={target} sets reads_all_layers, so its constructor has to take {name}."
        for key in settings:
            if key not in parameters:
                near = get_close_matches(key, taken, 1)
                nearest = f"; the nearest: {near[0]}" if near else ""
                yield f"{place}.{key}: {target} takes no {key}, only {', '.join(taken) or 'nothing'}{nearest}."
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found_elsewhere = {*given, *from_builder}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind not in variable and name not in found_elsewhere:
            yield f"{place}.{name} is missing: {target} needs it; give +{place}.{name}=..."
