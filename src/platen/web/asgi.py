"""For layers that work on ASGI messages: reads a body, gives it again, notices that the client has gone."""

from __future__ import annotations

import asyncio
from email.message import Message as Headers
from functools import lru_cache

from starlette.types import Message, Receive, Scope

WATCH_AFTER = 0.02
"""Seconds after which an answer under way is worth watching whether its client is still there."""


class Hangup:
    """Cancels the task that made it when the client goes away. A short answer is not worth the watching."""

    def __init__(self, receive: Receive) -> None:
        self.seen = False
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._start = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.seen = True
        assert self._task is not None
        self._task.cancel()

    def stop_watching(self) -> None:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def forgive(self) -> None:
        """The cancellation has done its work; the task goes on to its end."""
        assert self._task is not None
        self._task.uncancel()


def sends_json(scope: Scope) -> bool:
    """Whether a request says that its body is JSON, by the rule of the routes, which refuse all others."""
    return next((_is_json(value) for name, value in scope["headers"] if name == b"content-type"), False)


@lru_cache(64)
def _is_json(content_type: bytes) -> bool:
    headers = Headers()
    headers["content-type"] = content_type.decode("latin-1")
    subtype = headers.get_content_subtype()
    return headers.get_content_maintype() == "application" and (
        subtype == "json" or subtype.endswith("+json")
    )


async def whole_body(receive: Receive) -> bytes | None:
    """The request's body; None when the client hangs up first. Raises what the layers before this one do."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """What `receive` would have given, had nobody read the body."""
    read = False

    async def replay() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def failing(error: Exception) -> Receive:
    """A body that can't be had."""

    async def fail() -> Message:
        raise error

    return fail
