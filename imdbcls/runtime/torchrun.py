"""Detect the processes that torchrun starts, from their environment variables and without importing PyTorch."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from imdbcls.errors import UserError
from imdbcls.runtime import console

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun for every process
EXIT_DELAY = 5.0  # seconds


def launched() -> bool:
    """Return whether torchrun, or another launcher that sets the same variables, has started several processes.

    A scheduler may also set WORLD_SIZE for another purpose, but does not set RANK or LOCAL_RANK.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1 and ("RANK" in os.environ or "LOCAL_RANK" in os.environ)


def require_single_process() -> None:
    """If torchrun has started several processes, raise UserError in the main process, and exit in all other processes.

    Commands that do not support torchrun call this function.
    """
    if not launched():
        return
    if is_other_process():
        exit_after_main_process()
    raise UserError(
        "torchrun works only with imdbcls.train without --multirun, because it starts several processes for one run. "
        "Start this command without torchrun, or use torchrun for each run: torchrun --nproc_per_node N -m "
        "imdbcls.train ..."
    )


@contextlib.contextmanager
def muted_other_processes() -> Iterator[None]:
    """Show only the messages of the main process in the block, because the other processes would repeat them.

    Once `distributed.joined_processes` has connected the processes, the other processes show their errors, too, with
    their rank. Until then, an error has the same cause in all processes. So only the main process shows the error, and
    the other processes exit after a delay without a message.
    """
    if not is_other_process():
        yield
        return
    console.prefix_messages(f"process {os.environ['RANK']}")
    package = logging.getLogger(console.PACKAGE)
    package.setLevel(logging.CRITICAL)
    try:
        yield
    except SystemExit as exit_:
        if exit_.code and package.level == logging.CRITICAL:
            time.sleep(EXIT_DELAY)
        raise


def is_other_process() -> bool:
    """Return whether a run has several processes and this is not the main process."""
    return launched() and os.environ.get("RANK", "0") != "0"


def exit_after_main_process() -> NoReturn:
    """Wait `EXIT_DELAY` seconds, then exit with code 2.

    When a process exits with an error, torchrun ends all other processes. The main process needs the delay to report
    the error.
    """
    time.sleep(EXIT_DELAY)
    sys.exit(2)
