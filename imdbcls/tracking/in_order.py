"""Run a tracker's requests one after the other in a background thread, so that training never waits for them."""

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from imdbcls.tracking.reasons import first_line

logger = logging.getLogger(__name__)


class InOrder:
    """A queue of requests that a background thread calls in order.

    The first exception that a request raises is logged as a warning that starts with `warning`. Later exceptions are
    ignored.
    """

    def __init__(self, warning: str) -> None:
        self._warning = warning
        self._requests: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._has_failed = False

    def put(self, request: Callable[[], None]) -> None:
        """Add a request to the queue, and return at once."""
        if self._thread is None:  # a daemon thread does not delay process exit
            self._thread = Thread(target=self._work, daemon=True)
            self._thread.start()
        self._requests.put(request)

    def close(self, seconds: float) -> bool:
        """Wait up to `seconds` for all requests to finish. Return whether they have finished."""
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                request()
            except Exception as error:
                self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.warning(f"{self._warning} ({first_line(error)}); the run continues and is recorded in its folder.")
