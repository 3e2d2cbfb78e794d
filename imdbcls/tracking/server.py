"""Access the W&B server and wandb's helper process with time limits, because either may be missing, slow or stuck."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from imdbcls.runtime.waiting import is_reachable, within
from imdbcls.tracking.environment import current_mode, mode_of
from imdbcls.tracking.reasons import first_line

PROBE_SECONDS = 5.0


def stop_helper() -> None:
    """Stop wandb-core, the helper process of wandb. Kill it if it does not stop within `PROBE_SECONDS`.

    wandb's own exit hook has no time limit, and it does not run in a forked job.
    """
    if "wandb" not in sys.modules:
        return
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    with contextlib.suppress(Exception, SystemExit):
        within(PROBE_SECONDS, sys.modules["wandb"].teardown)
        return
    process = connection and connection._proc and connection._proc._process
    if process:
        process.kill()


def set_environment(data_folder: Path) -> list[str]:
    """Set environment variables for wandb that the user has not set. Return the names of these variables."""
    wanted = {
        # By default, wandb sends reports about its own errors and, at exit, waits until they are sent.
        "WANDB_ERROR_REPORTING": "false",
        # wandb stores tables in this folder until they are uploaded. By default, the folder is in the home folder.
        "WANDB_DATA_DIR": str(data_folder),
    }
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    return list(missing)


def why_not_online(settings: Any) -> str | None:
    """Return why runs cannot be logged online, or None if a key is configured.

    The function does not use the network and does not ask the user for a key.
    """
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        if wbauth.authenticate_session(host=settings.base_url, source="", prompt=False, update_session=False):
            return None
    except AuthenticationError as error:  # the key is malformed
        return first_line(error)
    return "no key is configured"


def effective_mode(mode: str) -> str:
    """Return the mode in which W&B logs on this machine: `online`, `offline` or `disabled`. Send no request."""
    mode = mode_of(mode)
    if mode in ("offline", "disabled"):
        return mode
    import wandb
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings  # `wandb.setup` would start a process
    wandb.termsetup(wandb.Settings(silent=True), None)  # keeps wandb from printing where it found the key
    if mode == "auto" and current_mode(settings.mode) in ("offline", "disabled"):
        return current_mode(settings.mode)
    return "online" if why_not_online(settings) is None else "offline"


def describe_auto() -> str:
    """Return how `tracker.mode=auto` logs on this machine, and why. One request checks that the server answers."""
    if mode_of("auto") == "disabled":
        return "WANDB_DISABLED is set: nothing is logged"
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings  # `wandb.setup` would start a process
    mode = current_mode(settings.mode)
    if mode in ("offline", "disabled"):
        effect = "logged offline" if mode == "offline" else "not logged"
        return f"WANDB_MODE={settings.mode}: runs are {effect} until WANDB_MODE is unset"
    problem = why_not_online(settings)
    if problem is not None:
        return (
            f"{problem}: runs are logged offline; view them with `wandb leet`, or run `wandb login` to use "
            f"{settings.base_url}"
        )
    if not is_reachable(settings.base_url, PROBE_SECONDS):
        return f"{settings.base_url} does not answer: runs are logged offline"
    return f"{settings.base_url} answers, and a key is configured: runs are logged online"
