"""Answers on the wire: one JSON object, or server-sent events as OpenAI streams them.

A stream has one `data:` line of JSON for each piece, then `[DONE]`. A stream of typed events, as the
Responses API has it, names each event's type before, and ends with its last event.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from platen.web.errors import ApiError, failed

log = logging.getLogger(__name__)


class EventStreamResponse(StreamingResponse):
    """Streams `pieces`. However it ends, `on_close` is called: the client may be gone at any moment.

    With `failure` they are typed events, and it makes the last one of a stream that fails.
    """

    def __init__(
        self,
        pieces: AsyncIterator[BaseModel],
        on_close: Callable[[], None],
        headers: Mapping[str, str],
        failure: Callable[[ApiError], BaseModel] | None = None,
    ) -> None:
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        lines = _encode(pieces) if failure is None else _encode_typed(pieces, failure)
        super().__init__(lines, headers={**headers, **fixed}, media_type="text/event-stream")
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def _encode(pieces: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    """The bytes of a stream. A failure after the start can only be told inside it: as an error object."""
    try:
        async for piece in pieces:
            yield b"data: " + piece.model_dump_json().encode() + b"\n\n"
    except ApiError as error:
        yield b"data: " + json.dumps(error.body()).encode() + b"\n\n"
        return
    except Exception:
        log.exception("a stream failed")
        yield b"data: " + json.dumps(failed().body()).encode() + b"\n\n"
        return
    yield b"data: [DONE]\n\n"


async def _encode_typed(
    events: AsyncIterator[BaseModel], failure: Callable[[ApiError], BaseModel]
) -> AsyncIterator[bytes]:
    """The bytes of a stream of events, each with its type; a failure is an event too."""

    def encoded(event: BaseModel) -> bytes:
        data = event.model_dump_json(by_alias=True)
        return f"event: {event.type}\ndata: {data}\n\n".encode()  # type: ignore[attr-defined]

    try:
        async for event in events:
            yield encoded(event)
    except ApiError as error:
        yield encoded(failure(error))
    except Exception:
        log.exception("a stream failed")
        yield encoded(failure(failed()))


def model_response(answer: BaseModel | None, headers: Mapping[str, str]) -> Response:
    """An answer in one. None means that the client has hung up, so that it does not matter."""
    if answer is None:
        return Response(status_code=499)
    return Response(
        answer.model_dump_json(by_alias=True), headers=dict(headers), media_type="application/json"
    )
