"""Check the paths of the files that `read_table` can read, without opening the files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imdbcls.errors import UserError
from imdbcls.runtime.file_patterns import is_pattern, matching_files

DELIMITED = (".csv", ".tsv")
LINES = (".txt",)  # one text per line: allowed for documents without labels
TEXT_FILES = (*DELIMITED, ".jsonl", ".ndjson", *LINES)
FORMATS = (*DELIMITED, ".jsonl", ".ndjson", ".parquet")
# Advice for some other file types.
INSTEAD = {
    ".gz": "unpack it first (gunzip)",
    ".zip": "unpack it first",
    ".json": "write one JSON object per line and name it .jsonl",
    ".xlsx": "save the sheet as CSV (UTF-8)",
    ".txt": "convert it to a CSV file with a header and quoted texts",
}


def require_table(path: Any, key: str, formats: Sequence[str] = FORMATS) -> Path:
    """Return the path of a file with one of the extensions `formats`. Do not open it.

    Raise UserError for anything else.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{key}={path} is not the path of a file.")
    place = Path(os.path.expanduser(path))
    if os.path.isdir(place):  # Path.is_dir raises errors for some strings, such as very long ones
        raise UserError(f"{key}={path} is a folder; choose a file in it ({', '.join(formats)}).")
    suffix = place.suffix.lower()
    if suffix not in formats:
        advice = f"; {INSTEAD[suffix]}" if suffix in INSTEAD else ""
        raise UserError(f"{key}={path} has no supported extension ({', '.join(formats)}){advice}.")
    if not os.path.isfile(place):
        raise UserError(f"{key}={path} does not exist or is not a regular file.")
    return place


def require_tables(value: Any, key: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Return the paths of the files that `value` names, in order, without opening the files.

    `value` is a path, a pattern, or a list of paths and patterns. The files that a pattern matches are sorted by path.
    Raise UserError as `require_table` does, and also for a pattern without a match and a file that is named twice.
    """
    entries = list(value) if isinstance(value, list | tuple) else [value]
    if not entries:
        raise UserError(f"{key}=[] names no file.")
    found: list[Path] = []
    for entry in entries:
        if isinstance(entry, str) and is_pattern(entry) and not matching_files(entry):
            raise UserError(f"{key}={entry} matches no file.")
        names = matching_files(entry) if isinstance(entry, str) and entry else [entry]
        found += [require_table(name, key, formats) for name in names]
    if len(found) > 1:
        seen: dict[str, Path] = {}
        for path in found:
            if seen.setdefault(os.path.realpath(path), path) is not path:
                raise UserError(f"{key} names {path} twice. Name each file once.")
    return found
