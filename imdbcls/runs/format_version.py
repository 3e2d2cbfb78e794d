"""The version of every file format that the project writes, as `format_version`, and its check on reading.

A version is raised when a reader of the old one would misread the new one: a key or column that is renamed, removed or
changes its meaning. New keys and columns do not raise it. JSON files hold `format_version` as a key, Parquet files as
metadata of the file. JSON Lines (`metrics.jsonl`, the answers of `predict`) carry none: each line is one record that
other tools read as it is, and a header line would not be one. `metrics.jsonl` has the version of its run's
`result.json`. Caches (`data.tokens`, `data.features`) have their version in the key of an entry: entries of other
versions are not found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import printable_line, shown
from imdbcls.runs.untrusted import read_json

FORMAT_VERSION = "format_version"  # the key

RESULT = 1  # result.json, and with it the run folder's metrics.jsonl and config.yaml
PREDICTIONS = 1  # predictions/*.parquet
CHECKPOINT = 1  # checkpoints/*/manifest.json and state.json
COMPARISON = 1  # comparison.json


class OtherVersion(UserError):
    """A file in another version than this imdbcls reads. The message continues a sentence about the file."""


def require_version(content: Mapping[str, Any], supported: int) -> None:
    """Raise OtherVersion unless the content of a file has the supported `format_version`."""
    found = content.get(FORMAT_VERSION)
    if found is None:
        raise OtherVersion("was written by an earlier version of imdbcls (no format_version)")
    if isinstance(found, bool) or not isinstance(found, int):
        raise OtherVersion(f"has format_version {printable_line(shown(found))}, which is not a whole number")
    if found > supported:
        raise OtherVersion(
            f"was written by a newer version of imdbcls (format_version {found}; this one reads {supported})"
        )
    if found < supported:
        raise OtherVersion(
            f"was written by an earlier version of imdbcls (format_version {found}; this one reads {supported})"
        )


def read_versioned(path: Path, supported: int) -> dict[str, Any]:
    """Read a JSON object from an untrusted file in the supported format version, and return it without the version.

    Raises UserError with the file and the reason.
    """
    content = read_json(path)
    try:
        require_version(content, supported)
    except OtherVersion as error:
        raise UserError(f"{path} {error}.") from error
    del content[FORMAT_VERSION]
    return content
