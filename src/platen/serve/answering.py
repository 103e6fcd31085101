"""How every route that writes text answers: a lease on a model, then one object or a stream of events.

An answer that a variant other than the stable one fails, before anything of it was sent, is given by the
stable one instead. A route's shadow gets a copy of each request; its answer goes only into the figures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fastapi import Request, Response
from pydantic import BaseModel

from platen.serve.context import ServeContext
from platen.serve.errors import ApiError
from platen.serve.generation import Generation, unless_disconnected
from platen.serve.hub import Lease, ModelHub
from platen.serve.served import ServedModel, writer
from platen.serve.sse import EventStreamResponse, model_response
from platen.serve.traffic import Outcome

log = logging.getLogger(__name__)

MAX_SHADOWS = 32
"""Copies under way at once; while there are so many, a shadow gets no more."""

_shadows: set[asyncio.Task[None]] = set()


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


@runtime_checkable
class TypedWork(Work, Protocol):
    """Work whose stream is one of typed events."""

    def failure(self, error: ApiError) -> BaseModel:
        """The last event of a stream that fails."""
        ...


Start = Callable[[ServedModel], Awaitable[Work]]


async def answer(
    context: ServeContext,
    request: Request,
    model: str,
    start: Start,
    *,
    stream: bool,
    user: str | None = None,
) -> Response:
    """Answer with what answers to the name `model`, which is held until the last byte is out.

    Raises ApiError when there is no such model or it does not take the request.
    """
    lease = context.hub.acquire(model, user=user)
    _send_to_shadow(context.hub, lease, start)
    while True:
        attempt = _Attempt(lease)
        try:
            return await attempt.respond(request, start, stream=stream)
        except ApiError as error:
            stable = lease.elsewhere() if error.status >= 500 else None
            attempt.close(failed=error.status >= 500)
            if stable is None:
                raise
            lease = stable
        except BaseException:
            attempt.close()
            raise


@dataclass
class _Attempt:
    """One model's attempt at an answer."""

    lease: Lease
    work: Work | None = None
    _failed: bool = False

    async def respond(self, request: Request, start: Start, *, stream: bool) -> Response:
        self.work = work = await start(writer(self.lease.model))
        headers = self.lease.headers
        if not stream:
            response = model_response(await unless_disconnected(request, work.whole()), headers)
            self.close()
            return response
        pieces = self._watched(work.pieces())
        # Only an experiment is waited for: if it fails here, another model can still answer.
        if not self.lease.is_stable:
            first = await unless_disconnected(request, anext(pieces, None))
            pieces = _with_first(first, pieces)
        failure = work.failure if isinstance(work, TypedWork) else None
        return EventStreamResponse(pieces, self.close, headers, failure)

    async def _watched(self, pieces: AsyncIterator[BaseModel]) -> AsyncIterator[BaseModel]:
        try:
            async for piece in pieces:
                yield piece
        except ApiError as error:
            self._failed = error.status >= 500
            raise

    def close(self, *, failed: bool = False) -> None:
        """Stop what still runs and give the model back, with what the answer says of it."""
        if self.work is None:
            self.lease.release(Outcome(failed=True) if failed else None)
            return
        generation = self.work.generation
        generation.cancel()
        if failed or self._failed:
            self.lease.release(Outcome(failed=True))
        else:
            self.lease.release(Outcome(False, generation.seconds_per_token()) if generation.ended else None)


async def _with_first(first: BaseModel | None, rest: AsyncIterator[BaseModel]) -> AsyncIterator[BaseModel]:
    if first is not None:
        yield first
        async for piece in rest:
            yield piece


def _send_to_shadow(hub: ModelHub, lease: Lease, start: Start) -> None:
    if lease.shadow is None or len(_shadows) >= MAX_SHADOWS:
        return
    shadow = hub.acquire_shadow(lease)
    assert shadow is not None
    task = asyncio.create_task(_shadowed(_Attempt(shadow), start))
    _shadows.add(task)
    task.add_done_callback(_shadows.discard)


async def _shadowed(attempt: _Attempt, start: Start) -> None:
    """Let a model answer for nobody."""
    failed = False
    try:
        attempt.work = await start(writer(attempt.lease.model))
        await attempt.work.whole()
    except ApiError as error:
        failed = error.status >= 500
        log.warning("the shadow of '%s' did not answer: %s", attempt.lease.model.info.name, error.message)
    finally:
        attempt.close(failed=failed)
