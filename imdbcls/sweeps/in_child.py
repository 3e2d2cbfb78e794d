"""Call a function in a forked process, so that this process starts no compute threads and can still fork jobs."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from imdbcls.sweeps.jobs import set_parent_death_signal

T = TypeVar("T")


def in_child(function: Callable[[], T]) -> T:
    """Run a module-level function, or a partial of such a function, in a forked process. Return its result.

    Raise the exception that the function raises, or RuntimeError if the process is killed.
    """
    with ProcessPoolExecutor(1, get_context("fork"), initializer=follow_parent, initargs=(os.getpid(),)) as pool:
        try:
            return pool.submit(function).result()
        except BrokenProcessPool as error:
            raise RuntimeError("a forked process was killed before it returned a result") from error


def follow_parent(parent: int) -> None:
    """Make this forked process end when its parent ends, and ignore Ctrl-C, which only the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_parent_death_signal(parent)
