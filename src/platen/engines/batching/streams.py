"""Carries token events from an engine's thread to the event loops of the callers.

An `EventStream` is what `Engine.submit` returns. The engine's thread never waits for a reader: events queue
up in the reader's loop, at most one request's worth.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from platen.engines.protocol import TokenEvent


class EventStream:
    """The events of one request, as an async iterator; closing it early cancels the request."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._cancel = cancel
        self._events: asyncio.Queue[TokenEvent | Exception] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._ended:
            raise StopAsyncIteration
        item = await self._events.get()
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.finish_reason is not None
        return item

    async def aclose(self) -> None:
        """Stop reading; the engine drops the request within one step."""
        self._ended = True
        self._cancel()

    def put(self, item: TokenEvent | Exception) -> None:
        """Add an event; only from the stream's own loop."""
        self._events.put_nowait(item)


Delivery = tuple[EventStream, TokenEvent | Exception]


def deliver(items: Iterable[Delivery]) -> None:
    """Hand events over from another thread, waking each reader's loop once.

    Events for a closed loop are dropped.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = defaultdict(list)
    for stream, item in items:
        by_loop[stream.loop].append((stream, item))
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, batch)
        except RuntimeError:
            for stream, _ in batch:
                stream._cancel()


def _put_all(batch: list[Delivery]) -> None:
    for stream, item in batch:
        stream.put(item)
