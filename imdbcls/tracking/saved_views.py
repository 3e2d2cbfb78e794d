"""Remember the W&B report and workspace of a study, so that publishing again replaces them."""

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from imdbcls.errors import UserError
from imdbcls.runs.untrusted import read_json
from imdbcls.runtime.atomic import write_atomically

T = TypeVar("T")
MAX_TITLE = 128  # characters; W&B rejects longer titles of reports


@dataclass(frozen=True)
class Place:
    """The entity and the project of a W&B run, and the folder of its study."""

    entity: str
    project: str
    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / "wandb" / "published.json"

    def url(self, kind: str) -> str | None:
        """Return the URL of the study's saved `report` or `workspace` in this project, or None if there is none."""
        try:
            found = read_json(self._file).get(kind)
        except UserError:
            return None
        return found if isinstance(found, str) and self._owns(found) else None

    def remember(self, kind: str, url: str) -> None:
        """Write the URL of a `report` or `workspace` to `wandb/published.json` in the study folder."""
        try:
            saved = read_json(self._file)
        except UserError:
            saved = {}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(saved | {kind: url}, indent=2) + "\n", durable=False)

    def _owns(self, url: str) -> bool:
        """Return whether a URL, which may come from an untrusted folder, belongs to this project."""
        with contextlib.suppress(ValueError):
            return urlsplit(url).path.split("/")[1:3] == [self.entity, self.project]
        return False


def earlier(load: Callable[[str], T], url: str | None) -> T | None:
    """Load the report or workspace at `url`. Return None if `url` is None or cannot be loaded."""
    if url is None:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, LookupError, *server_errors()):
        return load(url)
    return None


def server_errors() -> tuple[type[Exception], ...]:
    """Return the types of exceptions that wandb raises if the server answers with an error."""
    import wandb

    return (wandb.errors.Error,)


def title_of(text: str) -> str:
    """Replace symbols, control characters and URL delimiters with `_`, and truncate to `MAX_TITLE` characters.

    W&B rejects some titles that contain these characters.
    """
    clean = "".join("_" if unicodedata.category(c)[0] in "SC" else c for c in text)
    return re.sub(r"[/?#%\\]", "_", clean)[:MAX_TITLE]
