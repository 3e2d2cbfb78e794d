"""The effect of W&B's own environment variables, and the ids of runs.

A setting of the tracker on the command line takes precedence over the variable, the variable over the default.
Variables that contradict the run folder (its name, its group, the place of the logs) are ignored, which is logged. The
exception is a W&B sweep, whose agent sets the id.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imdbcls.runtime.atomic import write_atomically
from imdbcls.runtime.locks import build_lock

PROJECT = "imdbcls"
# Settings of the tracker that are null until a command or a variable sets them.
FROM_ENVIRONMENT = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "notes": "WANDB_NOTES"}
# Variables that are not used, and what decides instead.
IGNORED = {
    "WANDB_RUN_GROUP": "the group is the study (study=NAME)",
    "WANDB_NAME": "the name is the run folder's",
    "WANDB_JOB_TYPE": "the job type is train or comparison",
    "WANDB_RUN_ID": "the id follows from the study and the run",
    "WANDB_RESUME": "a run resumes where its folder has a checkpoint",
    "WANDB_DIR": "the logs are in the study's folder (runs_dir=FOLDER)",
}
OF_A_SWEEP = ("WANDB_RUN_ID", "WANDB_RESUME")  # the agent sets the first
LONGEST_ID = 128
LONGEST_TAG = 64

_TOKEN = re.compile(r"[0-9a-f]{8}")
_logged: set[str] = set()


def in_sweep() -> bool:
    """Return whether a W&B agent started this process; its sweep then decides the id, the project and the entity."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tracker's settings, with null replaced by the value of the environment variable."""
    found = dict(settings)
    for key, variable in FROM_ENVIRONMENT.items():
        if key in found and (found[key] is None or (in_sweep() and key != "notes")):
            found[key] = os.environ.get(variable) or found[key]
    if "project" in found and found["project"] is None:
        found["project"] = PROJECT
    return found


def mode_of(mode: str) -> str:
    """Return the tracker's mode; `auto` follows WANDB_DISABLED, and wandb itself follows WANDB_MODE."""
    return "disabled" if mode == "auto" and _says("WANDB_DISABLED", "1", "true", "yes", "on") else mode


def _says(variable: str, *values: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in values


def tags_of(tags: Iterable[object]) -> tuple[str, ...]:
    """Return the tags and those of WANDB_TAGS, each once, cut to the length that W&B accepts."""
    every = (str(tag).strip()[:LONGEST_TAG] for tag in (*tags, *os.environ.get("WANDB_TAGS", "").split(",")))
    return tuple(dict.fromkeys(tag for tag in every if tag))


def ignored(mode: str) -> str | None:
    """Return one line about variables that are set but not used; None if there are none, or it was returned before."""
    reasons = {
        name: reason
        for name, reason in IGNORED.items()
        if os.environ.get(name) and not (in_sweep() and name in OF_A_SWEEP)
    }
    wanted = os.environ.get("WANDB_MODE")
    if wanted and mode != "auto" and wanted != mode:
        reasons["WANDB_MODE"] = f"tracker.mode={mode} was asked for"
    if _says("WANDB_SILENT", "0", "false", "no", "off"):
        reasons["WANDB_SILENT"] = "W&B's own lines are not shown"
    if not reasons or reasons.keys() <= _logged:
        return None
    _logged.update(reasons)
    return f"W&B: ignoring {'; '.join(f'{name} ({reason})' for name, reason in reasons.items())}."


@contextlib.contextmanager
def without_ignored() -> Iterator[None]:
    """Hide the ignored variables from wandb, which would prefer some of them to its arguments."""
    names = [name for name in IGNORED if name in os.environ and not (in_sweep() and name in OF_A_SWEEP)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def run_id(study_folder: Path, name: str) -> str:
    """Return the W&B id of a run: its name and the study folder's token; in a W&B sweep, the agent's id.

    A run that continues, or starts again in the same folder, keeps its id. Two studies never share an id, even if they
    have the same name on two machines or in one project: neither overwrites the other's runs.
    """
    given = os.environ.get("WANDB_RUN_ID")
    if in_sweep() and given:
        return given
    token = study_token(study_folder)
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    room = LONGEST_ID - len(token) - 1
    if clean != name or len(clean) > room:  # what was cut or replaced must not make two names the same
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        clean = f"{clean[: room - len(digest) - 1]}-{digest}"
    return f"{clean}-{token}"


def study_token(folder: Path) -> str:
    """Return the eight random hexadecimal digits that identify a study's folder; create them if there are none.

    They are stored in `wandb/study.id`, so a study that is moved or copied continues its own runs.
    """
    path = folder / "wandb" / "study.id"
    if (found := _read(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with build_lock(path.with_name(".study.id.lock")):  # several jobs may start a study at once
        if _read(path) is None:
            write_atomically(path, secrets.token_hex(4), durable=False)
    found = _read(path)
    if found is None:
        raise OSError(f"{path} cannot be read back")
    return found


def _read(path: Path) -> str | None:
    """Return the token in a file; None if it is missing, damaged, or a link: a folder from elsewhere could hold one."""
    with contextlib.suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        text = file.read(64).decode("ascii", errors="replace").strip()
        return text if _TOKEN.fullmatch(text) else None
    return None
