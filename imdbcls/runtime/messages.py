"""Collect the messages and the progress of a run, so that a tracker can log what the user sees."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from imdbcls.printable import printable
from imdbcls.runtime.console import RECORDER, is_shown, label_of

MAX_MESSAGES = 10_000  # later messages are dropped if no tracker reads them

# Signal handlers can log, too, and only a SimpleQueue can be filled by a signal handler that interrupts a `put`.
_messages: "SimpleQueue[str | None] | None" = None


class MessageRecorder(logging.Handler):
    """A handler that records each message for which `is_shown` is true."""

    def filter(self, record: logging.LogRecord) -> Any:
        return is_shown(record) and super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            label, _ = label_of(record)
            text = self.format(record)
            record_message(f"{label} {text}" if label else text)
        except Exception:
            self.handleError(record)


@contextmanager
def recorded_messages() -> Iterator[None]:
    """Record the messages that are logged in the block. A tracker takes them from `queue_of_messages`."""
    global _messages
    handler, outer = MessageRecorder(), _messages
    _messages = SimpleQueue()
    handler.name = RECORDER
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        _messages = outer


def record_message(text: str) -> None:
    """Record a text that the user sees and that is not logged, such as the live progress line."""
    messages = _messages
    if messages is not None and messages.qsize() < MAX_MESSAGES:
        messages.put(printable(text))


def queue_of_messages() -> "SimpleQueue[str | None] | None":
    """Return the queue with the messages of the current run, or None outside `recorded_messages`."""
    return _messages
