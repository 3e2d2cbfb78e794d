"""The log of a run: `metrics.jsonl`.

Its lines carry no format_version, because each line is one point that other tools read as it is. The version of the
format is that of the run's `result.json`.
"""

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from imdbcls.errors import UserError
from imdbcls.runs.files import json_text


class MetricsLog:
    """`metrics.jsonl`, one JSON object per logged point; each step once, however often a run is continued."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[bytes] = path.open("ab+", buffering=0)
        self._sha256 = hashlib.sha256()  # of what was written since the last `rewind`, and of what that left

    def write(self, point: Mapping[str, float]) -> None:
        """Append a line. If the disk is full (OSError), the lines before it stay whole."""
        length, line = self._file.tell(), json_text(point).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        except OSError:
            self._file.truncate(length)
            raise
        self._sha256.update(line)

    def sync(self) -> tuple[int, str]:
        """Sync the file to the disk; return its length in bytes and its sha256."""
        os.fsync(self._file.fileno())
        return self._file.tell(), self._sha256.hexdigest()

    def rewind(self, length: int = 0, sha256: str = "") -> None:
        """Drop what was written after `sync` returned this. Raises UserError if what was written before has changed."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._sha256 = hashlib.sha256(self._file.read(min(length, size)))
        if length and (size < length or self._sha256.hexdigest() != sha256):
            what = f"has lost lines ({size:,} of {length:,} bytes are left)" if size < length else "was altered"
            raise UserError(
                f"{self._path} {what} since the checkpoint was saved. Restore it from a copy, or remove "
                f"{self._path.parent} to start again."
            )
        self._file.truncate(length)
        self._file.seek(length)

    def close(self) -> None:
        self._file.close()
