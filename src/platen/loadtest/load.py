"""Sends the requests of a load test: at a rate, whoever is still waiting (open loop), or from a number of
users who each wait for their answer before they ask again (closed loop).

Every run is bounded in requests and in seconds. Stopped early (Ctrl-C cancels its task) it gives what was
measured so far.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from platen.loadtest.load_prompts import Ask, Prompts
from platen.loadtest.records import Record
from platen.loadtest.target import Target, send

Watch = Callable[["Run"], None]
"""Called now and then during a run."""


@dataclass(frozen=True)
class Load:
    """Requests a second at random moments (a Poisson process), or users at once: one of the two.

    No request is sent after `seconds`, nor more than `requests`.
    """

    rate: float | None = None
    users: int | None = None
    requests: int = 200
    seconds: float = 60.0
    seed: int = 0

    def __str__(self) -> str:
        if self.users is not None:
            return f"{self.users} user" + ("s" if self.users != 1 else "")
        return f"{self.rate:.4g} requests/s"


@dataclass
class Run:
    """What was asked for, and a record of each request that was sent or was due."""

    load: Load
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    over: int = 0
    elapsed: float = 0.0


async def run_load(
    client: httpx.AsyncClient, target: Target, prompts: Prompts, load: Load, watch: Watch | None = None
) -> Run:
    """Send the requests of `load` and wait for all answers, each at most `target.timeout` seconds.

    When the calling task is cancelled, what runs is dropped and the run so far is returned as `interrupted`.
    """
    run = Run(load)
    began = time.perf_counter()
    sender = _Sender(client, target, prompts.asks(load.seed), run, lambda: time.perf_counter() - began)
    watcher = asyncio.create_task(_watch(run, sender.now, watch)) if watch else None
    try:
        await (sender.open_loop() if load.rate is not None else sender.closed_loop())
    except asyncio.CancelledError:
        run.interrupted = True
    finally:
        run.elapsed = sender.now()
        await sender.drop()
        if watcher:
            watcher.cancel()
    return run


async def _watch(run: Run, now: Callable[[], float], watch: Watch) -> None:
    while True:
        run.elapsed = now()
        watch(run)
        await asyncio.sleep(0.1)


def arrivals(load: Load) -> Iterator[float]:
    """When each request of an open loop is due, in seconds from the beginning.

    The gaps are exponential with mean 1 / rate, as those of independent people are.
    """
    assert load.rate is not None
    random_ = random.Random(load.seed)
    at = 0.0
    for _ in range(load.requests):
        if at > load.seconds:
            return
        yield at
        at += random_.expovariate(load.rate)


class _Sender:
    def __init__(
        self,
        client: httpx.AsyncClient,
        target: Target,
        asks: Iterator[Ask],
        run: Run,
        now: Callable[[], float],
    ) -> None:
        self._client, self._target, self._asks, self._run = client, target, asks, run
        self.now = now
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_loop(self) -> None:
        for due in arrivals(self._run.load):
            ask = next(self._asks)  # made before it is due
            if (wait := due - self.now()) > 0:
                await asyncio.sleep(wait)
            record = Record(scheduled=due)
            self._run.records.append(record)
            self._start(self._send(ask, record))
        await self._rest()

    async def closed_loop(self) -> None:
        for _ in range(self._run.load.users or 1):
            self._start(self._user())
        await self._rest()

    async def _user(self) -> None:
        load = self._run.load
        while len(self._run.records) < load.requests and self.now() < load.seconds:
            ask = next(self._asks)
            record = Record(scheduled=self.now())
            self._run.records.append(record)
            await self._send(ask, record)
            if record.outcome in ("429", "503", "connection"):
                await asyncio.sleep(0.1)  # a user does not hammer on a closed door

    async def _send(self, ask: Ask, record: Record) -> None:
        await send(self._client, self._target, ask, record, self.now)
        self._run.over += 1

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _rest(self) -> None:
        await asyncio.gather(*self._tasks)

    async def drop(self) -> None:
        """Give up what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
