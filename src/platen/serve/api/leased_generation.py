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

from platen.serve.access.caller import Caller
from platen.serve.access.layer import caller_of
from platen.serve.api.generation import Generation, unless_disconnected
from platen.serve.context import ServeContext
from platen.serve.guards.actions import Origin
from platen.serve.hub.model_hub import Lease
from platen.serve.hub.routing import Outcome
from platen.serve.hub.served_model import ServedModel, writer
from platen.web.errors import ApiError
from platen.web.sse import EventStreamResponse, model_response

log = logging.getLogger(__name__)

MAX_SHADOWS = 32
"""Copies under way at once; while there are so many, a shadow gets no more."""

_NOBODY = Caller(priority=-1)
"""For whom shadows answer: no one pays for them, and everyone goes first."""

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


Start = Callable[[ServedModel, Caller], Awaitable[Work]]


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

    Raises ApiError when the caller may not use it, there is no such model or it does not take the request.
    """
    caller = caller_of(request)
    caller.check_model(model)
    lease = context.hub.acquire(model, user=user)
    request.state.model = model
    _send_to_shadow(context, request, lease, start)
    while True:
        attempt = _Attempt(context, request, lease, caller)
        try:
            return await attempt.respond(start, stream=stream)
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

    context: ServeContext
    request: Request
    lease: Lease
    caller: Caller
    work: Work | None = None
    _failed: bool = False

    async def begin(self, start: Start) -> Work:
        """Start the work with the guards before and behind it."""
        model = writer(self.lease.model)
        origin = Origin.of(self.request.scope, model.info.name, model.info.version)
        self.work = work = await start(model.guarded(self.context.guards.incoming(origin)), self.caller)
        work.generation.oversee(self.context.oversight(origin, counted=self.caller is not _NOBODY))
        return work

    async def respond(self, start: Start, *, stream: bool) -> Response:
        work, request = await self.begin(start), self.request
        headers = self.lease.headers
        if not stream:
            response = model_response(await unless_disconnected(request, work.whole()), headers)
            self.close()
            return response
        pieces = self._watched(work.pieces())
        # Its first piece is waited for: what goes wrong before it has a status, or another model's answer.
        first = await unless_disconnected(request, anext(pieces, None))
        failure = work.failure if isinstance(work, TypedWork) else None
        return EventStreamResponse(_with_first(first, pieces), self.close, headers, failure)

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


def _send_to_shadow(context: ServeContext, request: Request, lease: Lease, start: Start) -> None:
    if lease.shadow is None or len(_shadows) >= MAX_SHADOWS:
        return
    shadow = context.hub.acquire_shadow(lease)
    assert shadow is not None
    task = asyncio.create_task(_shadowed(_Attempt(context, request, shadow, _NOBODY), start))
    _shadows.add(task)
    task.add_done_callback(_shadows.discard)


async def _shadowed(attempt: _Attempt, start: Start) -> None:
    """Let a model answer for nobody."""
    failed = False
    try:
        await (await attempt.begin(start)).whole()
    except ApiError as error:
        failed = error.status >= 500
        log.warning("the shadow of '%s' did not answer: %s", attempt.lease.model.info.name, error.message)
    finally:
        attempt.close(failed=failed)
