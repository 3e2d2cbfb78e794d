"""The W&B server and wandb's helper process: both may be slow, missing or stuck, so every wait for them is bounded."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from imdbcls.runtime.waiting import is_reachable, within
from imdbcls.tracking.environment import mode_of

PROBE_SECONDS = 5.0


def stop_helper() -> None:
    """Stop the wandb-core process that wandb started; kill it if it does not stop in time.

    wandb's exit hook would wait for it without a limit, and never runs in a forked job.
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
    """Set variables that wandb reads, except those the user has set. Return the names of those that were set."""
    wanted = {
        # W&B's reports about its own errors would be sent, and waited for, at exit.
        "WANDB_ERROR_REPORTING": "false",
        # Tables wait for their upload here, not in the home folder.
        "WANDB_DATA_DIR": str(data_folder),
    }
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    return list(missing)


def why_not_online(settings: Any) -> str | None:
    """Return why no server can be used, None if a key is configured. Ask neither the network nor the user."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        if wbauth.authenticate_session(host=settings.base_url, source="", prompt=False, update_session=False):
            return None
    except AuthenticationError as error:  # a key that no server would take
        return first_line(error)
    return "no key is configured"


def describe_auto() -> str:
    """Return how `tracker.mode=auto` logs on this machine, and why. Ask the server only whether it answers."""
    if mode_of("auto") == "disabled":
        return "WANDB_DISABLED is set: nothing is logged"
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings  # unlike `wandb.setup`, without starting a process
    if settings.mode in ("offline", "disabled"):
        logged = "offline" if settings.mode == "offline" else "not at all"
        return f"WANDB_MODE={settings.mode}: runs are logged {logged}; unset it to change that"
    problem = why_not_online(settings)
    if problem is not None:
        return f"{problem}: runs are logged offline, and `wandb leet` shows them; `wandb login` for {settings.base_url}"
    if not is_reachable(settings.base_url, PROBE_SECONDS):
        return f"{settings.base_url} does not answer: runs are logged offline"
    return f"{settings.base_url} answers, and a key is configured: runs are logged online"


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
