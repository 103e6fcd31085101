"""Requests and tokens per minute: how much a key has used of each, in this process or over all replicas.

A sliding window counter: what was used in this minute and, of the minute before, the share that still lies
within the last 60 seconds. Counted in memory by default. Replicas share their counts through Redis and the
`limits` library; while Redis can't be reached, each counts for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from platen.core.errors import MissingExtraError, PlatenError

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage

log = logging.getLogger(__name__)

MINUTE = 60
_NO_LIMIT = 2**53
_REDIS_SECONDS = 1.0
_RETRY_SECONDS = 5.0


class LimitsStoreError(PlatenError):
    """The Redis of `serve.limits_store` can't be used."""

    exit_code = 2


class Window(NamedTuple):
    """Where a limit of `limit` a minute stands.

    `previous` was used in the minute before this one, and `left / 60` of it still counts; `current` was used
    in this minute, which ends in `left` seconds.
    """

    limit: int
    previous: int
    current: int
    left: float

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self._used)

    @property
    def reset_seconds(self) -> float:
        """Until nothing counts any more, if nothing is added."""
        if self.current > 0:
            return self.left + MINUTE
        return self.left if self.previous > 0 else 0.0

    def seconds_until(self, amount: int) -> float:
        """Until `amount`, which must not be more than the limit, fits if nobody else takes any."""
        room = self.limit - amount
        if self._used <= room:
            return 0.0
        if self.current <= room:
            return max(0.0, self.left - MINUTE * (room + 1 - self.current) / self.previous)
        return self.left + MINUTE - MINUTE * (room + 1) / self.current

    @property
    def _used(self) -> int:
        return int(self.previous * self.left / MINUTE + self.current)


class LocalCounts:
    """The counts of this process.

    Not the library's own storage in memory, which sweeps all its keys on every hit: with 2,000 keys a hit was
    measured as 217 µs there. Here are as many counts as there are limited keys, and nothing to sweep.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, int, int]] = {}
        """The minute, the count of the one before it, its own count."""

    def take(self, name: str, limit: int, amount: int) -> tuple[bool, Window]:
        """Use `amount`, unless more than `limit` would be used then; says where the limit stands after it."""
        minute, previous, current, left = self._now(name)
        before = Window(limit, previous, current, left)
        if before.remaining < amount:
            return False, before
        self._counts[name] = (minute, previous, current + amount)
        return True, Window(limit, previous, current + amount, left)

    def add(self, name: str, amount: int) -> None:
        """Count what was used beyond any limit, or with a negative amount give back."""
        minute, previous, current, _ = self._now(name)
        self._counts[name] = (minute, previous, max(0, current + amount))

    def _now(self, name: str) -> tuple[int, int, int, float]:
        """This minute, the count of the one before it, its own, and how many seconds are left of it."""
        now = self._clock()
        minute = int(now // MINUTE)
        at, previous, current = self._counts.get(name, (minute, 0, 0))
        if at != minute:
            previous, current = (current if at == minute - 1 else 0), 0
        return minute, previous, current, MINUTE - now % MINUTE


class Counts:
    """The counts that limits are held against: in memory, or shared at `store`, a `redis://` address.

    Raises MissingExtraError, LimitsStoreError when no Redis answers there.
    """

    def __init__(self, store: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._local = LocalCounts(clock)
        self._shared = None if store is None else _redis(store)
        self._where = "" if store is None else _without_secrets(store)
        self._away_until = -math.inf
        self._corrections: set[asyncio.Task[None]] = set()

    async def take(self, name: str, limit: int, amount: int) -> tuple[bool, Window]:
        """Use `amount`, unless more than `limit` would be used then; says where the limit stands after it."""
        if self._shared is None or self._clock() < self._away_until:
            return self._local.take(name, limit, amount)
        try:
            taken = await self._shared.acquire_sliding_window_entry(name, limit, MINUTE, amount)
            previous, left, current, lives = await self._shared.get_sliding_window(name, MINUTE)
        except self._shared.base_exceptions as error:
            self._lost(error)
            return self._local.take(name, limit, amount)
        return taken, Window(limit, previous, current, left if previous else max(0.0, lives - MINUTE))

    def correct(self, name: str, amount: int) -> None:
        """Count what was used beyond what had been taken, or with a negative amount give back.

        With Redis beside the request, which may be over or cancelled.
        """
        if self._shared is None or self._clock() < self._away_until:
            self._local.add(name, amount)
            return
        task = asyncio.ensure_future(self._correct(self._shared, name, amount))
        self._corrections.add(task)
        task.add_done_callback(self._corrections.discard)

    async def _correct(self, shared: RedisStorage, name: str, amount: int) -> None:
        try:
            await shared.acquire_sliding_window_entry(name, _NO_LIMIT, MINUTE, amount)
        except shared.base_exceptions as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        self._away_until = self._clock() + _RETRY_SECONDS
        log.warning(
            "Redis at %s does not answer (%s); this server counts requests and tokens for itself meanwhile",
            self._where,
            type(error).__name__,
        )


def _redis(store: str) -> RedisStorage:
    try:
        import redis
        from limits.aio.storage import RedisStorage
    except ImportError:
        raise MissingExtraError("redis", "serve.limits_store") from None
    patience: dict[str, Any] = {
        "socket_timeout": _REDIS_SECONDS,
        "socket_connect_timeout": _REDIS_SECONDS,
    }
    try:
        with redis.Redis.from_url(store, **patience) as connection:
            connection.ping()
    except (redis.RedisError, ValueError) as error:
        raise LimitsStoreError(
            f"serve.limits_store: no Redis answers at {_without_secrets(store)} ({type(error).__name__})",
            hint="Start it, or leave serve.limits_store out: then each server counts for itself.",
        ) from None
    return RedisStorage(f"async+{store}", implementation="redispy", key_prefix="platen", **patience)


def _without_secrets(address: str) -> str:
    return urlsplit(address).netloc.rpartition("@")[2]
