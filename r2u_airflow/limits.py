"""A limit for bodies that are read into memory, before anybody is asked who they are.

FastAPI reads a JSON body before it resolves the dependencies of a route, so without this a caller
without a login could make the server hold any amount of bytes.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON_BYTES = 4 << 20
"""A request for a thousand records with ids of a thousand characters, and some."""


class LimitBody:
    """Answer 413 to a body above the limit; paths that stream their body are let through."""

    def __init__(self, app: ASGIApp, *, streaming: Collection[str]) -> None:
        """Wrap an app.

        Args:
            app: The app.
            streaming: Ends of the paths whose route bounds its body by itself.
        """
        self._app = app
        self._streaming = tuple(streaming)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read at most the limit and pass the request on."""
        if scope["type"] != "http" or scope["path"].endswith(self._streaming):
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if size > MAX_JSON_BYTES:
                detail = f"body: expected at most {MAX_JSON_BYTES} bytes; send files to /files"
                await JSONResponse({"detail": detail}, 413)(scope, receive, send)
                return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)
