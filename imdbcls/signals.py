"""Being asked to stop: SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 end a run at the next safe moment, with everything saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from imdbcls.console import say

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):
    """The run was asked to stop, and what it needs to continue is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same command continues it")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def note(self, signal_number: int, _frame: object) -> None:
        if self.signal_number is None:  # a second signal changes nothing: the first is being obeyed
            self.signal_number = signal_number
            say(f"{signal.Signals(signal_number).name}: finishing the step and saving ...")

    def obey(self) -> None:
        """Raise Interrupted if a stop was asked for: call it only where nothing is half done."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the signals into requests while the block runs; outside it they end the process as usual."""
    request = StopRequest()
    previous = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
