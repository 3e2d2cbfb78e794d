"""Forward the messages of a run to W&B's `output.log`."""

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class ConsoleLog:
    """Pass each message of a queue to `write` in a thread, so that training and signal handlers do not wait for W&B.

    W&B's own console capture is off, because it replaces `sys.stdout` and `sys.stderr`. The thread ends when `write`
    raises an error.
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
        """Let the thread write the messages in the queue and then end. Wait at most `seconds` for it to end."""
        self._messages.put(None)
        self._thread.join(seconds)
