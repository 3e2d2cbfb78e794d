"""Stop a run on SIGTERM, SIGINT, SIGUSR1 or SIGUSR2: at the next safe point, with its state saved."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """The run was asked to stop, and the state it needs to continue is saved.

    Like KeyboardInterrupt, it is not an `Exception`: it may be raised inside a library that swallows those.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same command continues it")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Record whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._interruptible = False

    def on_signal(self, signal_number: int, _frame: object) -> None:
        """Handle a signal: log it, and raise Interrupted within `interruptible`. A second signal is ignored."""
        if self.signal_number is not None:
            return
        self.signal_number = signal_number
        logger.info(
            f"{signal.Signals(signal_number).name}: {'stopping' if self._interruptible else 'finishing the step'} ..."
        )
        if self._interruptible:
            self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a stop was requested; call it only where no work is half done."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise Interrupted at any point of the block: for long work that can be interrupted without loss."""
        self._interruptible = True
        try:
            self.raise_if_requested()
            yield
        finally:
            self._interruptible = False


def current_handlers() -> dict[int, Any]:
    """Return the current handlers of the signals; none in other threads than the main one, which cannot set any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in SIGNALS}


def set_handlers(chosen: Mapping[int, Any]) -> None:
    """Set the handlers of signals."""
    for number, handler in chosen.items():
        signal.signal(number, handler)


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the signal handlers after the block."""
    before = current_handlers()
    try:
        yield
    finally:
        set_handlers(before)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals into requests while the block runs; outside it they end the process as usual.

    After an exit that obeys a request they are ignored: another one must not kill a process that is ending. In a block
    that another thread than the main one runs, they end the process as usual.
    """
    request = StopRequest()
    after = current_handlers()
    set_handlers(dict.fromkeys(after, request.on_signal))
    try:
        yield request
    except SystemExit:
        if request.signal_number is not None:
            after = dict.fromkeys(after, signal.SIG_IGN)
        raise
    finally:
        set_handlers(after)
