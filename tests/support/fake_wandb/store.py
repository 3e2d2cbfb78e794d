"""What the fake server knows. Every change is also written to JSON files, which remain if the server is killed."""

import hashlib
import itertools
import json
import shutil
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

_clock, _latest = threading.Lock(), datetime.now(UTC)
ENTITY = "someone"  # the user whose API key the tests configure


def project_fields(entity: str, project: str) -> dict[str, Any]:
    return {"id": f"{entity}/{project}", "internalId": "1", "name": project, "entity": {"id": "e", "name": entity}}


def now() -> str:
    """Return the current time to the millisecond. Each call returns a later time than the previous call."""
    global _latest
    with _clock:
        _latest = max(datetime.now(UTC), _latest + timedelta(milliseconds=1))
        return _latest.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Run:
    """A run. `name` is its id in URLs. `history` and `events` contain JSON lines, and `console` lines of output."""

    entity: str
    project: str
    name: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)
    commit: str | None = None
    host: str | None = None
    program: str | None = None
    sweep: str | None = None
    state: str = "running"
    exit_code: int | None = None
    is_preempting: bool = False
    is_stop_requested: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    used_artifacts: list[str] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return f"run:{self.entity}/{self.project}/{self.name}"

    def values(self) -> dict[str, Any]:
        """Return the config without the wrapper that the client adds to every value."""
        return {
            key: each["value"] if isinstance(each, dict) and "value" in each else each
            for key, each in self.config.items()
        }

    def points(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.history]


@dataclass
class Artifact:
    """A version of an artifact. `contents` is the part of its manifest that maps paths in the artifact to entries."""

    id: str
    entity: str
    project: str
    type: str
    collection: str
    digest: str
    metadata: dict[str, Any] = field(default_factory=dict)
    description: str | None = None
    client_id: str | None = None
    sequence_client_id: str | None = None
    created_by: str | None = None
    used_by: list[str] = field(default_factory=list)
    wanted_aliases: list[str] = field(default_factory=list)  # set when the version is committed
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    state: str = "PENDING"
    version: int | None = None
    contents: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # maps paths in the artifact to MD5 digests
    created_at: str = field(default_factory=now)


@dataclass
class Sweep:
    """A sweep. `config` is the parsed YAML. `queue` lists runs that were handed out and must be continued."""

    id: str
    name: str
    entity: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    display_name: str | None = None
    state: str = "PENDING"
    num_handed_out: int = 0
    agents: dict[str, str | None] = field(default_factory=dict)  # the run that each agent works on
    queue: list[str] = field(default_factory=list)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)  # the arguments of each run
    created_at: str = field(default_factory=now)


@dataclass
class View:
    """A saved workspace (type `project-view`) or a report (type `runs`). `spec` is parsed."""

    id: str
    entity: str
    project: str
    name: str
    type: str
    display_name: str
    description: str
    spec: dict[str, Any]
    num_saves: int = 0
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)


class Store:
    """All objects of a server, in memory and as files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = ""  # the URL of the server
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.views: dict[str, View] = {}
        self.projects: dict[tuple[str, str], str] = {}  # maps (entity, project) to the time of creation
        self._numbers = itertools.count(1)

    def new_id(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def add_project(self, entity: str, project: str) -> None:
        self.projects.setdefault((entity, project), now())

    def run(self, entity: str, project: str, name: str) -> Run | None:
        return self.runs.get(f"run:{entity}/{project}/{name}")

    def save(self, *changed: Run | Artifact | Sweep | View) -> None:
        for each in changed:
            path = self.folder / f"{type(each).__name__.lower()}s" / f"{quote(each.id, safe='')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(asdict(each)))
            part.replace(path)

    def run_file(self, run: Run, name: str) -> Path:
        return self.folder / "files" / quote(run.id, safe="") / name

    def add_blob(self, source: Path) -> str:
        """Move a file into the store, named by its MD5 in hexadecimal. Return the MD5."""
        digest = hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest()
        self.blob(digest).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, self.blob(digest))
        return digest

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest
