"""Adaptive batching: items of concurrent requests are collected into one call of a batch function.

A call is made as soon as it would be full, or when its oldest item has waited `max_delay` seconds, but one at
a time: what arrives during a call makes up the next one. So a lone request waits for little, and under load
the batches grow by themselves. All waiting goes by the event loop's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from platen.web.errors import ApiError, draining, overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")
BatchFunction = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
"""One result for each item, in their order."""


@dataclass(frozen=True)
class BatchLimits:
    """Items and their sizes' sum in one call, seconds that the first waits for others, items in the queue.

    An item that is larger than `max_size` by itself is computed alone.
    """

    max_items: int = 64
    max_size: int = 16_384
    max_delay: float = 0.002
    max_queue: int = 4096


@dataclass
class BatcherStats:
    """Counted since the start: calls, items in them, and seconds that those waited."""

    batches: int = 0
    items: int = 0
    waited: float = 0.0
    waiting: int = 0
    """Items in the queue now."""


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    """One request's items; `results` fill up as they are computed."""

    items: Sequence[Item]
    sizes: Sequence[int]
    arrived: float
    done: asyncio.Future[None]
    results: dict[int, Result] = field(default_factory=dict)
    taken: int = 0

    @property
    def left(self) -> int:
        """Items that are in no batch yet."""
        return len(self.items) - self.taken


_Place = tuple[_Request[Item, Result], int]
"""An item: its request and its number in it."""


class Batcher(Generic[Item, Result]):
    """Collects items for `run`. Belongs to one event loop."""

    def __init__(
        self,
        run: BatchFunction[Item, Result],
        limits: BatchLimits,
        *,
        size: Callable[[Item], int] = lambda _: 1,
    ) -> None:
        self._run, self._limits, self._size = run, limits, size
        self._requests: deque[_Request[Item, Result]] = deque()
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._seconds_per_item = 0.0
        self._waiting_size = 0
        self.stats = BatcherStats()

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """The items' results, in their order. Cancelling it takes back what has not begun.

        Raises ApiError when the queue has no room for all of them (429, with when to come again) and after
        `close` (503), and whatever the batch function raised on these items.
        """
        if self._closed:
            raise draining(5)
        most = self._limits.max_queue
        if len(items) > most:
            raise ApiError(
                400, f"{len(items)} items in one request; the server takes {most}.", code="too_many_items"
            )
        if self.stats.waiting + len(items) > most:
            raise overloaded(self.stats.waiting * self._seconds_per_item)
        if not items:
            return []
        loop = asyncio.get_running_loop()
        sizes = [self._size(item) for item in items]
        request = _Request[Item, Result](items, sizes, loop.time(), loop.create_future())
        self._requests.append(request)
        self.stats.waiting += len(items)
        self._waiting_size += sum(sizes)
        self._changed.set()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            await request.done
        finally:
            self._withdraw(request)
        return [request.results[number] for number in range(len(items))]

    async def close(self) -> None:
        """Fail what waits (503) and stop; a call that has begun is given up."""
        self._closed = True
        for request in list(self._requests):
            self._fail(request, draining(5))
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    async def _work(self) -> None:
        while True:
            await self._wait_for_company()
            batch = self._take()
            try:
                await self._compute(batch)
            except asyncio.CancelledError:
                for request, _ in batch:
                    self._fail(request, draining(5))
                raise

    async def _wait_for_company(self) -> None:
        """Until there is a full batch, or the oldest item has waited long enough."""
        loop = asyncio.get_running_loop()
        while self.stats.waiting < self._limits.max_items and self._waiting_size < self._limits.max_size:
            begin = None
            if self._requests:
                begin = min(request.arrived for request in self._requests) + self._limits.max_delay
                if begin <= loop.time():
                    return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begin):
                    await self._changed.wait()

    def _take(self) -> list[_Place[Item, Result]]:
        """The next batch: one item of each request in turn, so that a long list does not hold up others."""
        batch: list[_Place[Item, Result]] = []
        room = self._limits.max_size
        now = asyncio.get_running_loop().time()
        while self._requests and len(batch) < self._limits.max_items:
            request = self._requests[0]
            size = request.sizes[request.taken]
            if batch and size > room:
                break
            room -= size
            batch.append((request, request.taken))
            request.taken += 1
            self.stats.waiting -= 1
            self._waiting_size -= size
            self.stats.waited += now - request.arrived
            self._requests.popleft()
            if request.left:
                self._requests.append(request)
        self.stats.batches += 1
        self.stats.items += len(batch)
        return batch

    async def _compute(self, batch: list[_Place[Item, Result]]) -> None:
        """Run a batch; if it fails, each request's part by itself, so that only the guilty one fails."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            results = await self._run([request.items[number] for request, number in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            parts = {request: [place for place in batch if place[0] is request] for request, _ in batch}
            if len(parts) == 1:
                self._fail(batch[0][0], error)
            else:
                for part in parts.values():
                    await self._compute(part)
            return
        took = (loop.time() - began) / len(batch)
        self._seconds_per_item += 0.2 * (took - self._seconds_per_item)
        for (request, number), result in zip(batch, results, strict=True):
            request.results[number] = result
            if len(request.results) == len(request.items) and not request.done.done():
                request.done.set_result(None)

    def _fail(self, request: _Request[Item, Result], error: Exception) -> None:
        self._withdraw(request)
        if not request.done.done():
            request.done.set_exception(error)

    def _withdraw(self, request: _Request[Item, Result]) -> None:
        """Take what has not begun out of the queue."""
        if request.left:
            self._requests.remove(request)
            self.stats.waiting -= request.left
            self._waiting_size -= sum(request.sizes[request.taken :])
            request.taken = len(request.items)
