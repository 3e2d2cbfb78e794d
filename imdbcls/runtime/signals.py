"""Being asked to stop: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 end a run at the next safe moment, with everything saved."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imdbcls.runtime.console import say

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """The run was asked to stop, and what it needs to continue is saved.

    Not an Exception, as KeyboardInterrupt is none: it may be raised inside a library that swallows those.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same command continues it")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._at_once = False

    def note(self, signal_number: int, _frame: object) -> None:
        if self.signal_number is not None:  # a second signal changes nothing: the first is being obeyed
            return
        self.signal_number = signal_number
        say(f"{signal.Signals(signal_number).name}: {'stopping' if self._at_once else 'finishing the step'} ...")
        if self._at_once:
            self.obey()

    def obey(self) -> None:
        """Raise Interrupted if a stop was asked for: call it only where nothing is half done."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Interrupted from any point of the block: for long work that leaves nothing half done."""
        self._at_once = True
        try:
            self.obey()
            yield
        finally:
            self._at_once = False


def handlers() -> dict[int, Any]:
    """What handles the signals now; nothing in a thread other than the first, which Python lets set no handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in SIGNALS}


def handle_by(chosen: Mapping[int, Any]) -> None:
    for number, handler in chosen.items():
        signal.signal(number, handler)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """After the block, handle the signals as before it, whatever the block made of them."""
    before = handlers()
    try:
        yield
    finally:
        handle_by(before)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals into requests while the block runs; outside it they end the process as usual.

    An exit that obeys a request leaves them ignored: one more must not kill the process that is ending. In a thread
    other than the process's first they always end the process.
    """
    request = StopRequest()
    after = handlers()
    handle_by(dict.fromkeys(after, request.note))
    try:
        yield request
    except SystemExit:
        if request.signal_number is not None:
            after = dict.fromkeys(after, signal.SIG_IGN)
        raise
    finally:
        handle_by(after)
