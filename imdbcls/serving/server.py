"""Listen on an address, and run the application until SIGTERM or Ctrl-C."""

import errno
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from imdbcls.errors import UserError
from imdbcls.kernels import inference_weights
from imdbcls.runtime.entry import INTERRUPTED, flush
from imdbcls.runtime.signals import restored_handlers, set_handlers
from imdbcls.serving.app import create_app
from imdbcls.serving.explaining import warm_up
from imdbcls.serving.limits import Limits
from imdbcls.serving.model_thread import ModelThread
from imdbcls.serving.runs import ServedRuns

logger = logging.getLogger(__name__)

BACKLOG = 128  # connections that the operating system holds until the server accepts them
MAX_CONNECTIONS = 512
GRACE_SECONDS = 5  # time limit for requests in progress after a signal
STOP_SECONDS = 2  # additional time limit for the current batch or explanation
REASONS = {
    errno.EADDRINUSE: "another program uses this port: choose another --port, or 0 for a free one",
    errno.EACCES: "this port needs special rights: choose a --port above 1023",
    errno.EADDRNOTAVAIL: "this machine does not have this address: choose another --host",
}


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. For port 0, the system chooses a free port.

    Raise UserError if the address does not exist or cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host} is not an address of this machine ({error}). Try 127.0.0.1.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = REASONS.get(error.errno or 0, error.strerror)
        raise UserError(f"Cannot listen on {host}, port {port}: {reason}.") from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def run_server(runs: ServedRuns, limits: Limits, listener: socket.socket, on_start: Callable[[], None]) -> NoReturn:
    """Load the models, answer requests until SIGTERM or SIGINT, and end the process with exit code 0.

    `on_start` is called when the server is ready. If SIGINT arrives earlier, the exit code is 130.
    """
    models = ModelThread(runs.classify, limits, context=inference_weights)
    try:
        models.call_and_wait(lambda: warm_up(runs))
    except KeyboardInterrupt:
        exit_now(INTERRUPTED)
    answer_requests(create_app(runs, models, limits), listener, on_start)
    models.stop(STOP_SECONDS)
    exit_now(0)


def answer_requests(app: FastAPI, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Answer requests until SIGTERM or SIGINT. Then refuse connections, and finish the requests in progress.

    Requests are not logged. The traceback of an unexpected error is logged, but it contains no text of a request.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, on_start)
    with restored_handlers():
        # After its shutdown, uvicorn raises the signal again. These handlers ignore it, so that the exit code is 0.
        set_handlers({number: lambda *_: None for number in (signal.SIGTERM, signal.SIGINT)})
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()


def exit_now(code: int) -> NoReturn:
    """End the process at once, without waiting for a model that still computes and without freeing memory.

    On a busy machine, a normal exit takes many seconds.
    """
    flush()
    os._exit(code)
