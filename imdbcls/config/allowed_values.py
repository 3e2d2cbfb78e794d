"""Check a value against a type with constraints, and describe what the type allows."""

import json
import types
import typing
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union

from annotated_types import DocInfo, Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf, Unit
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from imdbcls.config.key_types import MAX_COUNT, MAX_SEED

NUMBERS = {int: "a whole number", float: "a number"}
LIST = "a list such as [a,b]"
KINDS = {str: "a string", bool: "true or false", type(None): "null", list: LIST, dict: "a mapping such as {a: b}"}


def allows(value: Any, hint: Any) -> bool:
    """Return whether a type allows a value from YAML, in which a tuple is a list and a path is a string.

    Return True for a type that cannot be checked.
    """
    adapter = adapter_of(hint)
    if adapter is None:
        return True
    try:
        adapter.validate_python(value, strict=True)
        return True
    except ValidationError:
        return is_valid_in_json(adapter, value)
    except Exception:  # a constraint that does not fit its type, or a validator of a plugin
        return True


def is_valid_in_json(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Return whether a type allows a value after conversion to JSON, which has neither tuples nor paths."""
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except (TypeError, ValueError):  # a pydantic ValidationError, or a value that JSON cannot express
        return False
    return True


def adapter_of(hint: Any) -> TypeAdapter[Any] | None:
    """Return pydantic's adapter that checks a type; None if the type cannot be checked."""
    try:
        return _adapter(hint)
    except Exception:  # a plugin's annotations may be anything
        return None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns about a type that allows anything
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def takes_text(hint: Any) -> bool:
    """Return whether a type includes `str`. If so, a string is not converted to a number, a boolean or null."""
    if hint is Any:
        return True
    kinds = [kind for kind, _ in alternatives(hint)]
    unions = (typing.get_args(kind) for kind in kinds if typing.get_origin(kind) in (Union, types.UnionType))
    return str in kinds or any(str in members for members in unions)  # a union with a `doc` is one alternative


def describe(hint: Any) -> str:
    """Describe what a type allows, as the end of the sentence `x=3 is not ...`."""
    found = []
    for kind, constraints in alternatives(hint):
        documentation = first(constraints, DocInfo, "documentation")
        if documentation is not None:
            found.append(documentation)
        elif typing.get_origin(kind) is Literal:
            choices = ", ".join(map(str, typing.get_args(kind)))
            found.append(f"one of {choices}" if len(typing.get_args(kind)) > 1 else choices)
        elif typing.get_origin(kind) is tuple:
            members = dict.fromkeys(map(describe, typing.get_args(kind)))
            found.append(f"{LIST} in which each item is {' or '.join(members)}")
        elif kind in NUMBERS:
            found.append(describe_number(kind, constraints))
        else:
            found.append(KINDS.get(typing.get_origin(kind) or kind) or f"of type {getattr(kind, '__name__', kind)}")
        if documentation is None:
            found[-1] += describe_size(constraints)
    return " or ".join(dict.fromkeys(found))


def alternatives(hint: Any, outer: Sequence[Any] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the members of a union, each with its constraints. The member null is last.

    For a type that is not a union, or that has a `doc`, return only the type itself with its constraints.
    """
    if typing.get_origin(hint) is Annotated:
        inner, *markers = typing.get_args(hint)
        constraints = [*flat_constraints(markers), *outer]
        if any(isinstance(each, DocInfo) for each in constraints):
            return [(inner, tuple(constraints))]
        return alternatives(inner, constraints)
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [pair for member in typing.get_args(hint) for pair in alternatives(member, outer)]
        return sorted(members, key=lambda pair: pair[0] is type(None))
    return [(hint, tuple(outer))]


def flat_constraints(markers: Sequence[Any]) -> Iterator[Any]:
    """Yield markers, with each `Interval` and pydantic `Field` replaced by its individual constraints."""
    for marker in markers:
        if isinstance(marker, FieldInfo):
            yield from marker.metadata
        elif isinstance(marker, GroupedMetadata):
            yield from marker
        else:
            yield marker


def describe_size(constraints: Sequence[Any]) -> str:
    """Describe the constraints `MultipleOf`, `MinLen` and `MaxLen`, as a continuation of a description."""
    found = [f"a multiple of {each.multiple_of}" for each in constraints if isinstance(each, MultipleOf)]
    found += [f"of length {each.min_length} or more" for each in constraints if isinstance(each, MinLen)]
    found += [f"of length {each.max_length} or less" for each in constraints if isinstance(each, MaxLen)]
    return "".join(f", {each}" for each in found)


def describe_number(kind: type, constraints: Sequence[Any]) -> str:
    """Describe a number by its bounds: `a whole number of at least 1`, `a number above 0 and below 1`."""
    low, high = first(constraints, Ge, "ge"), first(constraints, Le, "le")
    above, below = first(constraints, Gt, "gt"), first(constraints, Lt, "lt")
    unit = next((f" ({each.unit})" for each in constraints if isinstance(each, Unit)), "")
    high = None if high in (MAX_COUNT, MAX_SEED) else high
    if low is not None and (high is not None or below is not None):
        end = f"{high:,}" if high is not None else f"below {below:g}"
        return f"{NUMBERS[kind]} from {low:g} to {end}{unit}"
    ends = (("of at least", low), ("above", above), ("below", below), ("at most", high))
    bounds = " and ".join(f"{sign} {end:g}" for sign, end in ends if end is not None)
    return f"{NUMBERS[kind]} {bounds}".rstrip() + unit


def first(constraints: Sequence[Any], kind: type, attribute: str) -> Any:
    return next((getattr(each, attribute) for each in constraints if isinstance(each, kind)), None)
