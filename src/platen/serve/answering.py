"""How every route that writes text answers: a lease on the model, then one object or a stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from fastapi import Request, Response
from pydantic import BaseModel

from platen.serve.context import ServeContext
from platen.serve.generation import Generation, unless_disconnected
from platen.serve.served import ServedModel
from platen.serve.sse import EventStreamResponse, model_response


class Work(Protocol):
    """One request being answered, in the protocol of its route."""

    @property
    def generation(self) -> Generation: ...

    def pieces(self) -> AsyncIterator[BaseModel]:
        """The answer bit by bit."""
        ...

    async def whole(self) -> BaseModel:
        """The answer in one."""
        ...


async def answer(
    context: ServeContext,
    request: Request,
    model: str,
    start: Callable[[ServedModel], Awaitable[Work]],
    *,
    stream: bool,
    user: str | None = None,
) -> Response:
    """Answer with the model of that name; the model is held until the last byte is out.

    Raises ApiError when there is no such model or it does not take the request.
    """
    lease = context.hub.acquire(model, user=user)
    try:
        work = await start(lease.model)
    except BaseException:
        lease.release()
        raise

    def close() -> None:
        work.generation.cancel()
        lease.release()

    if stream:
        return EventStreamResponse(work.pieces(), close)
    try:
        return model_response(await unless_disconnected(request, work.whole()))
    finally:
        close()
