"""What may be slow, absent or stuck: the W&B server and wandb's helper process. Every wait on them has a bound."""

import contextlib
import http.client
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROBE_SECONDS = 5.0


def answers(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether anything at all answers HTTP there in time; what it answers is for W&B to judge."""

    def ask() -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=seconds).close()

    try:
        within(seconds, ask)  # the timeout of urlopen does not cover a silent name server
    except urllib.error.URLError as error:
        # A certificate that only wandb is set up to trust is an answer, too.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False
    return True


def within(seconds: float, action: Callable[[], None]) -> None:
    """Runs the action in a thread; after ``seconds`` the thread is left behind and ``TimeoutError`` is raised."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no end after {seconds:.0f} s")
    if errors:
        raise errors[0]


def stop_helper() -> None:
    """Ends the wandb-core process that wandb started, by force where it does not end by itself.

    It must not be left to wandb's exit hook, which waits for it without a bound and never runs in a forked job.
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
    """Set variables that wandb reads, where the user has not; returns the names of those that were set."""
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
    """Why no server can be used, or None where a key is configured; asks neither the network nor the user."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        if wbauth.authenticate_session(host=settings.base_url, source="", prompt=False, update_session=False):
            return None
    except AuthenticationError as error:  # a key that no server would take
        return first_line(error)
    return "no key is configured"


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
