"""Small files of a run folder, read with suspicion and written whole: the folder may come from a stranger."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from imdbcls.errors import UserError

MAX_JSON_BYTES = 32 << 20  # a result is a few kilobytes, unless its confusion matrix has a thousand classes
MAX_YAML_BYTES = 256 << 10


class BadFile(UserError):
    """A file that cannot be used; `problem` says why, in words that follow the file's name."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}.")
        self.path = path
        self.problem = problem


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which this project never writes and which can unfold a small file into endless data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias")
        return super().compose_node(parent, index)


def require_plain(path: Path, max_bytes: int) -> None:
    """Raise BadFile unless the path is a regular file, no link, of at most `max_bytes`."""
    try:
        status = path.lstat()
    except OSError as error:
        raise BadFile(path, "is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(path, "is not a regular file")
    if status.st_size > max_bytes:
        raise BadFile(path, f"has {status.st_size:,} bytes; at most {max_bytes:,} are read")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises BadFile where there is none."""
    require_plain(path, max_bytes)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(path, "is damaged: not JSON") from error
    if not isinstance(content, dict):
        raise BadFile(path, "is damaged: not a JSON object")
    return content


def read_yaml(path: Path, max_bytes: int = MAX_YAML_BYTES) -> dict[str, Any]:
    """The YAML mapping in a file, its keys as text; raises BadFile where there is none."""
    require_plain(path, max_bytes)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFile(path, "is damaged: not YAML") from error
    if not isinstance(content, dict):
        raise BadFile(path, "is damaged: not a mapping")
    return {str(key): value for key, value in content.items()}


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old content or the new, never a part; a link there is replaced."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # a killed process may have left it
    with temporary.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
