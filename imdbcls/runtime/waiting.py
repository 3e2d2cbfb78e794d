"""Wait for something outside the process for a limited time: a server, a name server, a library that may hang."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_background(function: Callable[[], T]) -> "Future[T]":
    """Run `function` in a daemon thread. Unlike a `ThreadPoolExecutor`, it never delays the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise what it raises; after `seconds` abandon it and raise TimeoutError."""
    future = in_background(function)
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise
        raise TimeoutError(f"no end after {seconds:.0f} s") from error


def is_reachable(url: str, seconds: float) -> bool:
    """Return whether anything answers HTTP at `url` in time, whatever the answer is."""
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()

    try:
        within(seconds, ask)  # the timeout of urlopen does not cover a name server that does not answer
    except urllib.error.URLError as error:
        # The server answered with a certificate that only the library which will use it may be set up to trust.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True
