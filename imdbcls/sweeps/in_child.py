"""Call a function in a forked process, so that this process starts no compute threads and can still fork jobs."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from imdbcls.sweeps.jobs import set_parent_death_signal

T = TypeVar("T")


def in_child(function: Callable[[], T]) -> T:
    """Return the result of a function that runs in a forked process, or raise its exception.

    Raise RuntimeError if the process is killed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:  # after any exception, the `finally` stops the child process from continuing this function
            os.close(receiver)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, whose end kills this process
            set_parent_death_signal(parent)
            with open(sender, "wb") as pipe:
                pipe.write(pickle.dumps(answer_of(function)))
            sys.stderr.flush()
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if not content:
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"a forked process ended without a result (exit code {code})")
    answer: T | Exception
    has_result, answer = pickle.loads(content)
    if not has_result:
        assert isinstance(answer, Exception)
        raise answer
    return answer  # type: ignore[return-value]


def answer_of(function: Callable[[], T]) -> tuple[bool, T | Exception]:
    """Return (True, the function's result) or (False, its exception)."""
    try:
        return True, function()
    except Exception as error:
        return False, error
