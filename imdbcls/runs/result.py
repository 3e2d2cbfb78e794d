"""The identifying fields of `result.json`, and the `result.json` of runs that end early."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from imdbcls.errors import UserError
from imdbcls.runs.content import model_content_hash
from imdbcls.runs.folder import RunFolder, how_to_continue
from imdbcls.runs.group_label import group_label
from imdbcls.runs.identity import choices_hash, config_hash, group_hash, split_choices_hash
from imdbcls.runtime import limits
from imdbcls.runtime.signals import Interrupted
from imdbcls.runtime.sweep_agent import in_sweep
from imdbcls.runtime.versions import versions

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)

# How long the other processes wait for the main process to ask W&B and to save the checkpoint. torchrun kills processes
# 30 seconds after a signal.
MAIN_SECONDS = 20.0


def identity_of(config: "Config", name: str) -> dict[str, Any]:
    """Return the fields of `result.json` that identify a run. `name` is the name of the run folder.

    Call this function once, when the folder is opened, and store the fields in `RunFolder.identity`: later, the content
    of the files that the config names may have changed.
    """
    return {
        "study": config.study,
        "name": name,
        "head": config.head.name,
        "backbone": config.backbone.name,
        "seed": config.seed,
        "max_length": config.max_length,
        "config_hash": config_hash(config),
        "group_hash": group_hash(config),
        "group_label": group_label(config),
        "choices_hash": choices_hash(config),
        "split_choices_hash": split_choices_hash(config),
        "backbone_content": model_content_hash(config.backbone.arguments.get("path") or config.backbone.name),
    }


@contextmanager
def recording_failures(folder: RunFolder) -> Iterator[None]:
    """Write a `result.json` if the run in this block ends early.

    After a signal, the status is `interrupted`, or `stopped` if W&B asked for the stop, and the process exits. After an
    error, the status is `failed`, and the error is re-raised. An error that a limit of the machine causes (memory, disk
    space) is raised as UserError.

    If a UserError is raised before training starts, a new folder is removed instead, because the corrected command
    starts another run in another folder.
    """
    try:
        yield
    except Interrupted as error:
        if error.stopped_by is not None:
            _end_stopped(folder, error)
        _record(folder, "interrupted", reason_of(error))
        logger.info(f"{folder.path.name}: {error}.")
        sys.exit(error.exit_code)
    except (Exception, SystemExit) as error:
        explained = limits.explain(error)
        if folder.is_new and isinstance(explained or error, UserError):
            folder.discard()
        else:
            _record(folder, "failed", reason_of(explained or error))
        if explained is not None:
            raise explained from error
        raise


@contextmanager
def exiting_like_main_process(folder: RunFolder) -> Iterator[None]:
    """Run a block of a process that is not the main process. After Interrupted, exit like the main process of the run.

    In a W&B sweep, the main process exits with 0 if W&B asked for the stop. torchrun exits with 0 only if all processes
    of the run exit with 0. Only the main process knows whether W&B asked for the stop. So this process waits until the
    main process has written the status `stopped`, for at most `MAIN_SECONDS`.
    """
    try:
        yield
    except Interrupted as error:
        deadline = time.monotonic() + MAIN_SECONDS
        while in_sweep() and time.monotonic() < deadline:
            if (folder.result() or {}).get("status") == "stopped":
                # Exit with 0, so that the sweep does not start the run again.
                sys.exit(0)
            time.sleep(0.2)
        sys.exit(error.exit_code)


def _end_stopped(folder: RunFolder, error: Interrupted) -> NoReturn:
    """Record that a tracker's server stopped the run, and exit. In a W&B sweep, the exit code is 0."""
    _record(folder, "stopped", str(error))
    logger.info(f"{folder.path.name}: {error}. {how_to_continue()}")
    sys.exit(0 if in_sweep() else error.exit_code)


def reason_of(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _record(folder: RunFolder, status: str, reason: str) -> None:
    try:
        folder.write_result({"status": status, "error": reason, "versions": versions()})
    except OSError as problem:
        logger.info(f"Could not write {folder.path}/result.json: {problem}.")
