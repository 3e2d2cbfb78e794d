"""A signal in an interruptible block ends the block with Interrupted, even if code in the block catches everything."""

import os
import signal
import sys
from contextlib import suppress

import pytest

from imdbcls.runtime.signals import Interrupted, restored_handlers, stop_requests


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_raises_inside_the_block() -> None:
    with pytest.raises(Interrupted) as stopped, stop_requests() as stop, stop.interruptible():
        send_sigterm()
        pytest.fail("the block continued")
    assert stopped.value.exit_code == 128 + signal.SIGTERM


def test_failing_cleanup_does_not_hide_the_signal() -> None:
    """For example, OmegaConf fails in a `finally` block if a signal interrupts it at an unexpected point."""
    with pytest.raises(Interrupted) as stopped, stop_requests() as stop, stop.interruptible():
        try:
            send_sigterm()
        finally:
            raise AttributeError("the state was half set up")
    assert isinstance(stopped.value.__cause__, AttributeError)


def test_a_library_that_catches_everything_does_not_hide_the_signal() -> None:
    done = False
    with pytest.raises(Interrupted), stop_requests() as stop, stop.interruptible():
        with suppress(BaseException):
            send_sigterm()
        done = True
    assert done


def test_an_error_without_a_signal_is_unchanged() -> None:
    with pytest.raises(ValueError, match="wrong"), stop_requests() as stop, stop.interruptible():
        raise ValueError("wrong")


def test_outside_an_interruptible_block_a_signal_waits_for_the_next_safe_point() -> None:
    with stop_requests() as stop:
        send_sigterm()
        with pytest.raises(Interrupted):
            stop.raise_if_requested()
        with pytest.raises(Interrupted), stop.interruptible():
            pytest.fail("the block was entered")


@pytest.mark.parametrize(("module", "calls"), [("submitit.core.job_environment", [signal.SIGUSR2]), ("other", [])])
def test_submitit_requeues_a_job_after_its_run_has_stopped(module: str, calls: list[int]) -> None:
    received: list[int] = []

    def handler(number: int, _frame: object) -> None:
        received.append(number)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN, "a second signal must not interrupt the requeueing"

    handler.__module__ = module
    with restored_handlers():
        signal.signal(signal.SIGUSR2, handler)
        with pytest.raises(SystemExit), stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert received == [] and stop.signal_number == signal.SIGUSR2
            sys.exit(140)
    assert received == calls
