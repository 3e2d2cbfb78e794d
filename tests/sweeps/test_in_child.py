"""A forked process returns the result of a function or raises its exception. If it dies, this is reported."""

import os
import signal
import threading
from functools import partial

import pytest

from imdbcls.errors import UserError
from imdbcls.sweeps.in_child import in_child


def process_and_bytes(number: int) -> tuple[int, bytes]:
    return os.getpid(), b"x" * number


def fail() -> None:
    raise UserError("the reason")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_is_returned_from_another_process() -> None:
    process, large = in_child(partial(process_and_bytes, 1_000_000))  # more than a pipe holds
    assert process != os.getpid() and len(large) == 1_000_000


def test_no_thread_is_left_that_would_make_later_forks_unsafe() -> None:
    before = threading.active_count()
    in_child(os.getpid)
    assert threading.active_count() == before


def test_exceptions_are_raised_here() -> None:
    with pytest.raises(UserError, match="the reason"):
        in_child(fail)


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(RuntimeError, match="was killed before it returned a result"):
        in_child(die)
