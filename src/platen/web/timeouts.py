"""How long the server waits: for a request's bytes, for a client that reads, for a whole answer.

One plain ASGI layer. What runs out of time is cancelled, and with it its work in the engine.
"""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from platen.web.connection import CUT_OFF
from platen.web.deadlines import Bound, Deadlines
from platen.web.errors import ApiError


class Patience:
    """Ends what takes longer than `request_seconds`, and clients that keep it waiting for `idle_seconds`.

    A client that does not send the rest of its request is answered 408; one that does not read its answer is
    cut off; an answer that is not whole in time ends with 504, or in a stream with an error.
    """

    def __init__(self, app: ASGIApp, *, request_seconds: float, idle_seconds: float) -> None:
        self._app = app
        self._request_seconds, self._idle_seconds = request_seconds, idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadlines = Deadlines()
        exchange = _Exchange(receive, send, deadlines, self._idle_seconds)
        try:
            await self._in_time(scope, exchange, deadlines.within(self._request_seconds))
        except _Stalled:
            await _cut_off(scope, receive)
        finally:
            deadlines.close()

    async def _in_time(self, scope: Scope, exchange: _Exchange, limit: Bound) -> None:
        try:
            with limit:
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not limit.reached:
                raise
            await exchange.end(scope, _out_of_time(self._request_seconds))


class _Stalled(Exception):
    """The client does not read, or can't be told any more that its answer is not complete."""


class _Exchange:
    """A request and its answer, watched on their way."""

    def __init__(self, receive: Receive, send: Send, deadlines: Deadlines, idle_seconds: float) -> None:
        self._receive, self._send = receive, send
        self._deadlines, self._idle_seconds = deadlines, idle_seconds
        self._received = self._started = self._streams_events = False

    async def receive(self) -> Message:
        if self._received:  # what follows is that the client hangs up, whenever it likes
            return await self._receive()
        try:
            with self._deadlines.within(self._idle_seconds):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"The rest of the request did not come within {self._idle_seconds:g} s.",
                headers={"connection": "close"},
            ) from None
        self._received = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            kind = next((value for name, value in message["headers"] if name == b"content-type"), b"")
            self._streams_events = kind.startswith(b"text/event-stream")
        try:
            with self._deadlines.within(self._idle_seconds):
                await self._send(message)
        except TimeoutError:
            raise _Stalled from None

    async def end(self, scope: Scope, error: ApiError) -> None:
        """Answer with an error, or end the stream of events with one. Raises _Stalled if it is too late."""
        if not self._started:
            await error.response()(scope, self._receive, self.send)
        elif self._streams_events:
            last = b"data: " + json.dumps(error.body()).encode() + b"\n\n"
            await self.send({"type": "http.response.body", "body": last})
        else:
            raise _Stalled


def _out_of_time(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"The answer was not complete within {seconds:g} s. Ask for fewer tokens.",
        code="request_timeout",
    )


async def _cut_off(scope: Scope, receive: Receive) -> None:
    """Close the connection with whatever is still to be sent."""
    cut_off = scope.get("state", {}).get(CUT_OFF)
    if cut_off is not None:
        cut_off()
        while (await receive())["type"] != "http.disconnect":
            pass
