"""ASGI middleware: the limits on the size and the time of a request, and security headers for every response."""

import asyncio
import logging

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imdbcls.serving.limits import Limits

logger = logging.getLogger(__name__)

RETRY_AFTER = {"Retry-After": "1"}  # in seconds, about the time of one batch
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuse a request whose body is too large (413), and end a request that takes too long (504).

    If the server stops before a request is answered, the response is 503. Each header in `HEADERS` is added to every
    response that does not have it yet.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                present = {bytes(name).lower() for name, _ in message.get("headers", ())}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                missing = [header for header in added if header[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *missing]}
            await send(message)

        async def refuse(status: int, sentence: str) -> None:
            if not is_started:
                response = JSONResponse({"error": sentence}, status, RETRY_AFTER if status == 503 else None)
                await response(scope, receive, send_with_headers)

        if declared_bytes(scope) > self._limits.body_bytes:
            await refuse(413, self._too_large())
            return
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, self._limited(receive), send_with_headers)
        except TimeoutError:
            await refuse(504, f"The request took longer than {self._limits.seconds:g} seconds: send fewer texts.")
        except asyncio.CancelledError:
            await refuse(503, "The server is stopping.")
            raise

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that raises HTTPException if the body is too large."""
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._limits.body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"The request has more than {self._limits.body_bytes:,} bytes: send fewer or shorter texts."


def declared_bytes(scope: Scope) -> int:
    """Return the Content-Length of a request, or 0 if it has none."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0
