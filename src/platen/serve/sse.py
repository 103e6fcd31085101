"""Answers on the wire: one JSON object, or server-sent events as OpenAI streams them.

A stream has one `data:` line of JSON for each piece, then `[DONE]`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from platen.serve.errors import ApiError, failed
from platen.serve.generation import unless_disconnected

log = logging.getLogger(__name__)


class EventStreamResponse(Response):
    """Streams `pieces`. However it ends, `on_close` is called: the client may be gone at any moment.

    The answer begins with the first piece, so that what goes wrong before it has a status of its own.
    """

    def __init__(self, pieces: AsyncIterator[BaseModel], on_close: Callable[[], None]) -> None:
        super().__init__()
        self._pieces, self._on_close = pieces, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await unless_disconnected(Request(scope, receive), _next(self._pieces))
            if first is not None:
                body = _encode(first, self._pieces)
                headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
                answer = StreamingResponse(body, headers=headers, media_type="text/event-stream")
                await answer(scope, receive, send)
        finally:
            self._on_close()


async def _next(pieces: AsyncIterator[BaseModel]) -> BaseModel:
    return await anext(pieces)


async def _encode(first: BaseModel, rest: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    """The bytes of a stream. A failure after the start can only be told inside it: as an error object."""
    try:
        yield b"data: " + first.model_dump_json().encode() + b"\n\n"
        async for piece in rest:
            yield b"data: " + piece.model_dump_json().encode() + b"\n\n"
    except ApiError as error:
        yield b"data: " + json.dumps(error.body()).encode() + b"\n\n"
        return
    except Exception:
        log.exception("a stream failed")
        yield b"data: " + json.dumps(failed().body()).encode() + b"\n\n"
        return
    yield b"data: [DONE]\n\n"


def model_response(answer: BaseModel | None) -> Response:
    """An answer in one. None means that the client has hung up, so that it does not matter."""
    if answer is None:
        return Response(status_code=499)
    return Response(answer.model_dump_json(), media_type="application/json")
