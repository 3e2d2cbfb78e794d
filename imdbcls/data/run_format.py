"""Choose the format of a new file: the format that the user gives, or the format of the run's data if it fits."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from imdbcls.data.columns import AUTO, DELIMITERS, Quoting, Request
from imdbcls.data.lines import MARKS, encoding_sample, is_evidently_utf8, known_encoding
from imdbcls.data.table_paths import DELIMITED, TEXT_FILES
from imdbcls.data.tables import require_columns
from imdbcls.errors import UserError

logger = logging.getLogger(__name__)

QUOTINGS = tuple(name for name in get_args(Quoting) if name != AUTO)


def with_format_of_run(request: Request, path: Path, data: Mapping[str, Any]) -> Request:
    """Return the request with the delimiter, quoting and encoding of the run's data in place of `auto`.

    `data` has the arguments of the run's data source, which may be anything if the run folder comes from an untrusted
    source. A setting stays `auto` if the file evidently has another format. Log the settings that are used.
    """
    suffix, chosen = path.suffix.lower(), dict[str, str]()
    encoding = setting_in(data, "encoding")
    if suffix in TEXT_FILES and request.encoding == AUTO and encoding is not None and fits(path, encoding):
        chosen["encoding"] = encoding
        request = replace(request, encoding=encoding)
    if suffix in DELIMITED:
        delimiter, quoting = setting_in(data, "delimiter", DELIMITERS), setting_in(data, "quoting", QUOTINGS)
        is_same = request.delimiter == (delimiter or AUTO)  # with another delimiter, the quoting may also differ
        if request.delimiter == AUTO and delimiter is not None:
            is_same = has_columns(path, replace(request, delimiter=delimiter))
            if is_same:
                chosen["delimiter"] = delimiter
                request = replace(request, delimiter=delimiter)
        if request.quoting == AUTO and quoting is not None and is_same:
            chosen["quoting"] = quoting
            request = replace(request, quoting=quoting)
    if chosen:
        used = ", ".join(request.assignment(name, value) for name, value in chosen.items())
        logger.info(f"{path}: read with {used}, like the data of the run.")
    return request


def setting_in(data: Mapping[str, Any], key: str, choices: Collection[str] | None = None) -> Any:
    """Return a setting of the run's data as a string; None if it is missing, `auto` or not allowed."""
    value = data.get(key)
    is_allowed = isinstance(value, str) and value not in ("", AUTO) and (choices is None or value in choices)
    return value if is_allowed else None


def has_columns(path: Path, request: Request) -> bool:
    """Return whether the header of a file has the requested columns with the requested delimiter."""
    try:
        require_columns(path, request)
    except UserError:
        return False
    return True


def fits(path: Path, encoding: str) -> bool:
    """Return whether a file may have the given encoding; False if it has a byte order mark or is evidently UTF-8."""
    try:
        known_encoding(Request((), encoding=encoding))
        sample = encoding_sample(path)
    except (UserError, OSError):
        return False  # reading the file reports the error
    if sample.startswith(tuple(MARKS)):
        return False
    if b"\0" in sample:  # UTF-16 or UTF-32
        return "a".encode(encoding) != b"a"
    return "a".encode(encoding) == b"a" and not is_evidently_utf8(sample, encoding)
