"""Detect the processes that torchrun starts, from their environment variables and without importing PyTorch."""

import logging
import os
import sys

from imdbcls.errors import UserError
from imdbcls.runtime import console

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun for every process


def launched() -> bool:
    """Return whether torchrun, or another launcher that sets the same variables, has started several processes.

    Schedulers set WORLD_SIZE for other purposes, too, but not the rank.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    return size.isdigit() and int(size) > 1 and ("RANK" in os.environ or "LOCAL_RANK" in os.environ)


def require_single_process() -> None:
    """Raise UserError if torchrun has started several processes of a command that trains several runs."""
    if not launched():
        return
    if os.environ.get("RANK", "0") != "0":
        sys.exit(2)
    raise UserError(
        "torchrun starts several processes for one run, but this command trains several runs. Start it without "
        "torchrun, or use torchrun for each run: torchrun --nproc_per_node N -m imdbcls.train ..."
    )


def mute_other_processes() -> None:
    """Show only the messages of the main process, because the other processes would repeat them.

    After `distributed.joined_processes`, the others also show their errors, with their rank.
    """
    if launched() and os.environ.get("RANK", "0") != "0":
        console.prefix_messages(f"process {os.environ['RANK']}")
        logging.getLogger(console.PACKAGE).setLevel(logging.CRITICAL)
