"""A function in a forked process returns its result, raises its exception, and its death is reported."""

import os
import signal

import pytest

from imdbcls.errors import UserError
from imdbcls.sweeps.in_child import in_child


def test_the_result_is_returned_from_another_process() -> None:
    process, large = in_child(lambda: (os.getpid(), b"x" * 1_000_000))  # more than a pipe holds
    assert process != os.getpid() and len(large) == 1_000_000
    assert in_child(lambda: None) is None


def test_exceptions_are_raised_here() -> None:
    def fail() -> None:
        raise UserError("the reason")

    with pytest.raises(UserError, match="the reason"):
        in_child(fail)


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r"without a result \(exit code -9\)"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))
