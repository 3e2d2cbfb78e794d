"""Stop a run on SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 at the next safe point, after saving its state."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """An exception that ends a run after a signal. The same command resumes the run.

    Like KeyboardInterrupt, this class is not a subclass of `Exception`, because libraries may catch every `Exception`.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; run the same command again to resume")
        self.exit_code = 128 + signal_number
        self.stopped_by: str | None = None  # set by a tracker whose server asked for the stop, such as W&B

    def __str__(self) -> str:
        return super().__str__() if self.stopped_by is None else f"stopped by {self.stopped_by}"


class StopRequest:
    """The state of one process's signal handling: whether a signal has requested a stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._interruptible = False

    def on_signal(self, signal_number: int, _frame: object) -> None:
        """Handle a signal: log it, and raise Interrupted inside an `interruptible` block. Ignore a second signal."""
        if self.signal_number is not None:
            return
        self.signal_number = signal_number
        logger.info(
            f"{signal.Signals(signal_number).name}: {'stopping' if self._interruptible else 'finishing the step'} ..."
        )
        if self._interruptible:
            self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a stop was requested. Call this only at a safe point, with no unfinished work."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise Interrupted at any point of the block, for long work that can be abandoned safely.

        Even if a library catches Interrupted, or raises another exception during its cleanup, the block ends with
        Interrupted.
        """
        self._interruptible = True
        try:
            self.raise_if_requested()
            yield
        except Exception as error:
            if self.signal_number is None:
                raise
            raise Interrupted(self.signal_number) from error
        finally:
            self._interruptible = False
        self.raise_if_requested()


def current_handlers() -> dict[int, Any]:
    """Map signals to their current handlers. Return {} outside the main thread, where handlers cannot be set."""
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
    """Convert signals to stop requests while the block runs, and restore the handlers afterwards.

    If the process exits after a stop request, further signals are ignored, so that they cannot interrupt the exit. In a
    job of submitit, submitit's own handler is called before the exit. It requeues the job if the signal announces the
    time limit. Outside the main thread, handlers cannot be set, and signals end the process as usual.
    """
    request = StopRequest()
    before = after = current_handlers()
    set_handlers(dict.fromkeys(after, request.on_signal))
    try:
        yield request
    except SystemExit:
        if request.signal_number is not None:
            after = dict.fromkeys(after, signal.SIG_IGN)
            set_handlers(after)
            if is_of_submitit(before.get(request.signal_number)):
                before[request.signal_number](request.signal_number, None)
        raise
    finally:
        set_handlers(after)


def is_of_submitit(handler: object) -> bool:
    return callable(handler) and str(getattr(handler, "__module__", "")).startswith("submitit.")
