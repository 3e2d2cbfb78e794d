"""Forward the messages of a run to W&B's `output.log`."""

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class ConsoleLog:
    """A thread that passes each message of a queue to `write`, so that neither training nor a signal waits for W&B.

    W&B's own capture is off, because it replaces `sys.stdout` and `sys.stderr`. The thread ends when `write` fails.
    """

    def __init__(self, messages: "SimpleQueue[str | None]", write: Callable[[str], None]) -> None:
        self._messages = messages
        self._write = write
        self._thread = Thread(target=self._forward, daemon=True)
        self._thread.start()

    def _forward(self) -> None:
        with contextlib.suppress(Exception):
            while (message := self._messages.get()) is not None:
                self._write(message)

    def stop(self, seconds: float) -> None:
        """Wait until all messages are written, but at most `seconds`."""
        self._messages.put(None)
        self._thread.join(seconds)
