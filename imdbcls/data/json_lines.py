"""Read JSON Lines, and find keys in nested objects."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from imdbcls.data.columns import Request
from imdbcls.data.lines import lines_of
from imdbcls.errors import UserError

MAX_DEPTH = 5  # levels of nested JSON objects whose keys an error message lists
ONE_PER_LINE = "JSON Lines has one object per line"


def json_rows(path: Path, request: Request) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the number and the JSON object of each line that is not blank."""
    repeated: set[str] = set()  # repeated keys of the last parsed object; json parses the outermost object last

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        repeated.clear()
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.update(name for name in value if names.count(name) > 1)
        return value

    # Do not use str.splitlines: it would also split at U+2028, which JSON strings may contain.
    for number, line in enumerate(lines_of(path, request), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number:,} is not valid JSON ({error.msg}, column {error.colno}); {ONE_PER_LINE}."
            ) from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or a thousand nested brackets
            raise UserError(
                f"{path}, line {number:,}: this JSON value is too large to parse ({error}). Shorten or remove the line."
            ) from error
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number:,}: expected a JSON object, found {type(value).__name__}; {ONE_PER_LINE}."
            )
        for setting, name in request.columns:
            if name not in value and "." in name:
                value |= nested_cell(value, name)
            if name in repeated:
                raise UserError(
                    f"{path}, line {number:,}: key {name!r} ({request.key(setting)}) occurs twice. Remove one of them."
                )
        yield number, value


def nested_cell(row: Mapping[str, object], name: str) -> dict[str, object]:
    """Return {name: value} for a key in nested JSON objects, such as `review.body`; {} if it does not exist.

    A key may itself contain dots: in `{"a.b": {"c": 1}}`, `a.b.c` is 1. If the name is ambiguous, a key of the row with
    the complete name takes precedence, followed by the match with the shortest outer key.
    """
    if name in row:
        return {name: row[name]}
    for position, character in enumerate(name):
        inner = row.get(name[:position]) if character == "." else None
        if isinstance(inner, dict) and (found := nested_cell(inner, name[position + 1 :])):
            return dict.fromkeys([name], *found.values())
    return {}


def with_nested_keys(row: Mapping[str, object], depth: int = MAX_DEPTH) -> dict[str, object]:
    """Return a JSON object plus dotted keys for nested objects, to `depth` levels. Existing keys are unchanged."""
    found = dict(row)
    for name, value in row.items():
        if isinstance(value, dict) and depth > 1:
            for inner, cell in with_nested_keys(value, depth - 1).items():
                found.setdefault(f"{name}.{inner}", cell)
    return found
