"""Run functions with a time limit: requests to a server, name lookups, and library calls that may hang."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_background(function: Callable[[], T]) -> "Future[T]":
    """Run `function` in a daemon thread. Unlike a `ThreadPoolExecutor`, the thread does not delay process exit."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return the result of `function` or raise its exception. Raise TimeoutError after `seconds`.

    The function is then abandoned, but its thread may still run.
    """
    future = in_background(function)
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise
        raise TimeoutError(f"no result after {seconds:.0f} s") from error


def is_reachable(url: str, seconds: float) -> bool:
    """Return whether an HTTP server answers at `url` within `seconds`, with any status code."""
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    def request() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()

    try:
        within(seconds, request)  # the timeout of urlopen does not cover the name lookup
    except urllib.error.URLError as error:
        # A server with an untrusted certificate is reachable: wandb or huggingface_hub may be configured to trust it.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True
