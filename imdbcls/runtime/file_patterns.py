"""Find the files that a config value names: a path, a pattern such as `part-*.csv`, or a list of these."""

import glob
import os
from collections.abc import Sequence
from typing import Any


def is_pattern(path: str) -> bool:
    """Return whether a path has wildcards. A path that exists is never a pattern."""
    local = os.path.expanduser(path)
    return glob.has_magic(local) and "\0" not in local and not os.path.lexists(local)


def matching_files(path: str) -> list[str]:
    """Return the files that a pattern matches, sorted by path. A path without wildcards is returned unchanged.

    `**` means `*` and does not search all subfolders, because the pattern may come from the config of an untrusted run.
    """
    if not is_pattern(path):
        return [path]
    return sorted(each for each in glob.glob(os.path.expanduser(path)) if not os.path.isdir(each))


def named_files(value: Any) -> list[str]:
    """Return the paths that a config value names, in order; [] if the value is neither a string nor a list of strings.

    Paths without wildcards need not exist.
    """
    entries: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    return [path for entry in entries if isinstance(entry, str) and entry for path in matching_files(entry)]
