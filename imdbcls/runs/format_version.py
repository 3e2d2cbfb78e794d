"""The `format_version` of each file format that the project writes, and its check on reading.

A version increases when a reader of the old version would misread the new one: a key or column is renamed, is removed
or changes its meaning. New keys and columns do not increase it.

JSON files have `format_version` as a key, Parquet files as file metadata. JSON Lines files (`metrics.jsonl`, the output
of `predict`) have none, because other tools expect a record on every line; `metrics.jsonl` follows the version in the
run's `result.json`. Caches (`data.tokens`, `data.features`) include their version in the key of each entry, so entries
of other versions are never found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import printable_line, shown
from imdbcls.runs.untrusted import read_json

FORMAT_VERSION = "format_version"  # the key

RESULT = 1  # result.json, and also metrics.jsonl and config.yaml of the run folder
PREDICTIONS = 1  # predictions/*.parquet
CHECKPOINT = 1  # checkpoints/*/manifest.json and state.json
COMPARISON = 1  # comparison.json


class OtherVersionError(UserError):
    """An unsupported format version. The message is a predicate: the caller puts the file's name before it."""


def require_version(content: Mapping[str, Any], supported: int) -> None:
    """Raise OtherVersionError unless the content of a file has the supported `format_version`."""
    found = content.get(FORMAT_VERSION)
    if found is None:
        raise OtherVersionError("was written by an earlier version of imdbcls (no format_version)")
    if isinstance(found, bool) or not isinstance(found, int):
        raise OtherVersionError(f"has format_version {printable_line(shown(found))}, which is not a whole number")
    if found > supported:
        raise OtherVersionError(
            f"was written by a newer version of imdbcls (format_version {found}; this one reads {supported})"
        )
    if found < supported:
        raise OtherVersionError(
            f"was written by an earlier version of imdbcls (format_version {found}; this one reads {supported})"
        )


def read_versioned(path: Path, supported: int) -> dict[str, Any]:
    """Return the JSON object in an untrusted file, without its `format_version`.

    Raises UserError with the file and the reason if it cannot be read or has another version than `supported`.
    """
    content = read_json(path)
    try:
        require_version(content, supported)
    except OtherVersionError as error:
        raise UserError(f"{path} {error}.") from error
    del content[FORMAT_VERSION]
    return content
