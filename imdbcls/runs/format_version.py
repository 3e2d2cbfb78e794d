"""The `format_version` of each file format that the project writes, and its check on reading.

A format's version increases when a key or column is renamed, is removed or changes its meaning, because older readers
would misread the new files. A new key or column does not increase the version.

JSON files have `format_version` as a key, Parquet files as file metadata. JSON Lines files (`metrics.jsonl`, the output
of `predict`) have no version, because other tools expect a data record on every line. The version in a run's
`result.json` also applies to its `metrics.jsonl`. Caches (`data.tokens`, `data.features`) include their version in the
key of each entry, so entries of other versions are never found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.printable import printable_line, shown
from imdbcls.runs.untrusted import read_json

FORMAT_VERSION = "format_version"  # the key

RESULT = 1  # result.json, metrics.jsonl and config.yaml in a run folder
PREDICTIONS = 1  # predictions/*.parquet
CHECKPOINT = 1  # checkpoints/*/manifest.json and state.json
COMPARISON = 1  # comparison.json
WALL_TIMES = 1  # wall_times.json of a planned study
TUNING = 1  # tuning.json in the folder of the trials of a tuning study
PLAN = 1  # plan.json
EXPORT = 1  # imdbcls-export.json, and config.json of an ONNX or torch export
ANSWERS = 1  # the Parquet output of predict, and state.json of an output that is not complete


class OtherVersionError(UserError):
    """An unsupported format version. The message is a predicate, and the caller puts the file's name before it."""


def require_version(content: Mapping[str, Any], supported: int) -> None:
    """Raise OtherVersionError unless the content of a file has the supported `format_version`."""
    found = content.get(FORMAT_VERSION)
    if found is None:
        raise OtherVersionError("was written by an earlier version of imdbcls (no format_version)")
    if isinstance(found, bool) or not isinstance(found, int):
        raise OtherVersionError(f"has format_version {printable_line(shown(found))}, which is not a whole number")
    if found > supported:
        raise OtherVersionError(
            f"was written by a newer version of imdbcls (format_version {found}; this version reads {supported})"
        )
    if found < supported:
        raise OtherVersionError(
            f"was written by an earlier version of imdbcls (format_version {found}; this version reads {supported})"
        )


def read_versioned(path: Path, supported: int) -> dict[str, Any]:
    """Return the JSON object in an untrusted file, without its `format_version`.

    Raise UserError with the file and the reason if the file cannot be read or its version is not `supported`.
    """
    content = read_json(path)
    try:
        require_version(content, supported)
    except OtherVersionError as error:
        raise UserError(f"{path} {error}.") from error
    del content[FORMAT_VERSION]
    return content
