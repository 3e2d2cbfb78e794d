"""Apply W&B's environment variables to the tracker's settings, and derive the W&B ids of runs.

A tracker setting on the command line overrides the environment variable, and the variable overrides the default.
Variables for the run's name, its group and the location of its logs are ignored with a warning, because the run folder
determines these values. In a W&B sweep, however, the agent sets the run id by WANDB_RUN_ID.
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
from imdbcls.runtime.sweep_agent import in_sweep

PROJECT = "imdbcls"
# Tracker settings that are null by default, and the environment variables that are used instead of null.
FROM_ENVIRONMENT = {"project": "WANDB_PROJECT", "entity": "WANDB_ENTITY", "notes": "WANDB_NOTES"}
# Environment variables that are ignored, each with the reason that the warning gives.
IGNORED = {
    "WANDB_RUN_GROUP": "the group is the study (study=NAME)",
    "WANDB_NAME": "the name is the run folder's name",
    "WANDB_JOB_TYPE": "the job type is train or comparison",
    "WANDB_RUN_ID": "the id is derived from the study and the run",
    "WANDB_RESUME": "a run resumes if its folder has a checkpoint",
    "WANDB_DIR": "the logs are in the study's folder (runs_dir=FOLDER)",
}
OLD_MODES = {"dryrun": "offline", "run": "online"}  # names that wandb still accepts in WANDB_MODE and in its settings
USED_IN_SWEEPS = ("WANDB_RUN_ID", "WANDB_RESUME")  # not ignored in a W&B sweep, whose agent sets the run id
SET_IN_SWEEPS = ("WANDB_DIR",)  # ignored without a warning in a W&B sweep, whose agent sets it
MAX_ID_LENGTH = 128
MAX_TAG_LENGTH = 64

_TOKEN = re.compile(r"[0-9a-f]{8}")
_logged: set[str] = set()


def resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the tracker's settings, in which W&B's environment variables replace null.

    A project that is still null becomes `PROJECT`. In a W&B sweep, the agent's project and entity override the
    tracker's settings.
    """
    found = dict(settings)
    for key, variable in FROM_ENVIRONMENT.items():
        if key in found and (found[key] is None or (in_sweep() and key != "notes")):
            found[key] = os.environ.get(variable) or found[key]
    if "project" in found and found["project"] is None:
        found["project"] = PROJECT
    return found


def mode_of(mode: str) -> str:
    """Return `mode`, or `disabled` if `mode` is `auto` and WANDB_DISABLED is true. wandb itself reads WANDB_MODE."""
    return "disabled" if mode == "auto" and _is_set_to("WANDB_DISABLED", "1", "true", "yes", "on") else mode


def current_mode(name: str) -> str:
    """Return the current name of a mode in wandb's settings: `offline` for `dryrun`, and `online` for `run`."""
    return OLD_MODES.get(name, name)


def _is_set_to(variable: str, *values: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in values


def tags_of(tags: Iterable[object]) -> tuple[str, ...]:
    """Return `tags` and the tags in WANDB_TAGS without duplicates, each truncated to the length that W&B accepts."""
    all_tags = (str(tag).strip()[:MAX_TAG_LENGTH] for tag in (*tags, *os.environ.get("WANDB_TAGS", "").split(",")))
    return tuple(dict.fromkeys(tag for tag in all_tags if tag))


def ignored(mode: str) -> str | None:
    """Return a warning about ignored environment variables, or None if none is set or all were already reported."""
    reasons = {
        name: reason
        for name, reason in IGNORED.items()
        if os.environ.get(name) and not (in_sweep() and name in (*USED_IN_SWEEPS, *SET_IN_SWEEPS))
    }
    wanted = os.environ.get("WANDB_MODE")
    if wanted and mode != "auto" and current_mode(wanted) != mode:
        reasons["WANDB_MODE"] = f"tracker.mode={mode} is set"
    if _is_set_to("WANDB_SILENT", "0", "false", "no", "off"):
        reasons["WANDB_SILENT"] = "the messages of wandb are never shown"
    if not reasons or reasons.keys() <= _logged:
        return None
    _logged.update(reasons)
    return f"W&B: ignoring {'; '.join(f'{name} ({reason})' for name, reason in reasons.items())}."


@contextlib.contextmanager
def without_ignored() -> Iterator[None]:
    """Hide the ignored environment variables during the block: some would override the arguments of `wandb.init`."""
    names = [name for name in IGNORED if name in os.environ and not (in_sweep() and name in USED_IN_SWEEPS)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def run_id(study_folder: Path, name: str) -> str:
    """Return the W&B id of a run: the run's name and its study's token. In a W&B sweep, the agent sets the id.

    A run that is resumed or started again in the same folder keeps its id. The token is random. Studies with the same
    name that were created on different machines therefore do not overwrite each other's runs.
    """
    given = os.environ.get("WANDB_RUN_ID")
    if in_sweep() and given:
        return given
    token = study_token(study_folder)
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    max_length = MAX_ID_LENGTH - len(token) - 1
    if clean != name or len(clean) > max_length:  # the digest keeps the ids unique
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        clean = f"{clean[: max_length - len(digest) - 1]}-{digest}"
    return f"{clean}-{token}"


def study_token(folder: Path) -> str:
    """Return the token of a study's folder: eight random hexadecimal digits, created on the first call.

    The token is stored in `wandb/study.id`, so the runs of a moved or copied study keep their ids.
    """
    path = folder / "wandb" / "study.id"
    if (found := _read(path)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with build_lock(path.with_name(".study.id.lock")):  # several jobs may create the token at the same time
        if _read(path) is None:
            write_atomically(path, secrets.token_hex(4), durable=False)
    found = _read(path)
    if found is None:
        raise OSError(f"{path} cannot be read after it was written")
    return found


def _read(path: Path) -> str | None:
    """Return the study token in a file, or None if the file is missing, damaged or a symbolic link."""
    with contextlib.suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        text = file.read(64).decode("ascii", errors="replace").strip()
        return text if _TOKEN.fullmatch(text) else None
    return None
