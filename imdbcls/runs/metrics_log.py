"""Write and read a run's `metrics.jsonl`.

The file has no `format_version`, because other tools expect a data record on every line. The version in the run's
`result.json` also applies to this file.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text


class MetricsLog:
    """The file `metrics.jsonl`: one JSON object per logged step. Resuming a run does not duplicate steps."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[bytes] = path.open("ab+", buffering=0)
        self._sha256 = hashlib.sha256()  # hash of the file's content, once `rewind` has been called

    def write(self, point: Mapping[str, float]) -> None:
        """Append `point` as a line. If the line cannot be written completely, remove it and raise OSError."""
        length, line = self._file.tell(), json_text(point).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        except OSError:
            self._file.truncate(length)
            raise
        self._sha256.update(line)

    def sync(self) -> tuple[int, str]:
        """Flush the file to the disk (fsync). Return its length in bytes and its SHA-256."""
        os.fsync(self._file.fileno())
        return self._file.tell(), self._sha256.hexdigest()

    def rewind(self, length: int = 0, sha256: str = "") -> None:
        """Truncate the file to `length` bytes, and continue from there.

        `length` and `sha256` are the values that an earlier call of `sync` returned. The defaults empty the file.
        Raise UserError if the file is shorter, or if the SHA-256 of its first `length` bytes is not `sha256`.
        """
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._sha256 = hashlib.sha256(self._file.read(min(length, size)))
        if length and (size < length or self._sha256.hexdigest() != sha256):
            what = f"has lost lines ({size:,} of {length:,} bytes are left)" if size < length else "was modified"
            raise UserError(
                f"{self._path} {what} since the checkpoint was saved. Restore it from a backup, or remove "
                f"{self._path.parent} to train the run from the start."
            )
        self._file.truncate(length)
        self._file.seek(length)

    def close(self) -> None:
        self._file.close()


def read_points(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run's own `metrics.jsonl`, or nothing if there is no such file."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
