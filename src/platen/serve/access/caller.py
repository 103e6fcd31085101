"""Whoever makes a request: what they may do, and what they use of their limits.

A request's work asks `admit` before it begins, with the most that it may use, and tells `settle` what it has
used when it is over, however it ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from platen.serve.access.keys import PRIORITIES, ApiKey
from platen.serve.access.keystore import Spent
from platen.serve.access.rate_limits import Counts, Window
from platen.serve.access.usage import Ledger, Reservation
from platen.serve.config import PriceConfig
from platen.web.errors import ApiError

ANONYMOUS = "anonymous"
Header = tuple[bytes, bytes]
_HEADERS = {
    what: [f"x-ratelimit-{name}-{what}".encode() for name in ("limit", "remaining", "reset")]
    for what in ("requests", "tokens")
}


class Caller:
    """One request's caller; here one without a key, who is refused nothing and for whom nothing is counted.

    `tenant` and `priority` are for the engine's scheduler: tenants share it fairly, the higher goes first.
    """

    def __init__(self, name: str = ANONYMOUS, tenant: str = ANONYMOUS, priority: int = 0) -> None:
        self.name, self.tenant, self.priority = name, tenant, priority

    def may_use(self, model: str) -> bool:
        return True

    def check_model(self, model: str) -> None:
        """Raises ApiError unless the caller may use the model."""
        if not self.may_use(model):
            raise ApiError(
                403, f"This key may not use the model '{model}'.", param="model", code="model_not_allowed"
            )

    async def count_request(self) -> None:
        """Take one of the requests a minute. Raises ApiError when none is left."""

    async def admit(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Set aside the most that the request is expected to use, once and before its work begins.

        Raises ApiError when the caller has too little left. `model` says what the tokens cost.
        """

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what the request has used in place of what was set aside. Only the first time counts."""

    def withdraw(self) -> None:
        """Give back what was set aside, and count nothing: someone else does the work, and admits it anew."""

    def headers(self) -> list[Header]:
        """OpenAI's `x-ratelimit-*`: where the caller's limits stand."""
        return []


@dataclass(frozen=True)
class Books:
    """Where the use of keys is counted, and what tokens cost."""

    ledger: Ledger
    counts: Counts
    prices: Mapping[str, PriceConfig]

    def price(self, model: str) -> PriceConfig:
        return next((p for pattern, p in self.prices.items() if fnmatchcase(model, pattern)), PriceConfig())


@dataclass(slots=True)
class _Admission:
    """What was set aside for a request; tokens a minute can be given back while their minute lasts."""

    price: PriceConfig
    reserved: Reservation
    taken: int = 0
    minute_ends: float = 0.0


class KeyHolder(Caller):
    """The caller of one request, by a valid key."""

    def __init__(self, key: ApiKey, books: Books) -> None:
        super().__init__(key.grant.name, key.grant.tenant, PRIORITIES[key.grant.priority])
        self._key, self._books = key, books
        self._windows: dict[str, Window] = {}
        self._admission: _Admission | None = None

    def may_use(self, model: str) -> bool:
        return self._key.grant.may_use(model)

    async def count_request(self) -> None:
        limit = self._key.grant.limits.requests_per_minute
        if limit is not None:
            await self._take("requests", limit, 1)

    async def admit(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        assert self._admission is None, "a request is admitted once"
        tokens, price = prompt_tokens + completion_tokens, self._books.price(model)
        limit = self._key.grant.limits.tokens_per_minute
        if limit is not None and tokens > limit:
            raise ApiError(
                400,
                f"This request may use {tokens:,} tokens; its key has {limit:,} a minute. "
                "Ask for fewer with max_tokens, or send a shorter prompt.",
                code="request_too_large",
            )
        most = _cost(price, prompt_tokens, completion_tokens)
        reserved = self._books.ledger.reserve(self._key, tokens, most)
        admission = _Admission(price, reserved)
        if limit is not None:
            try:
                window = await self._take("tokens", limit, tokens)
            except BaseException:
                self._books.ledger.release(self._key, reserved)
                raise
            admission.taken, admission.minute_ends = tokens, time.monotonic() + window.left
        self._admission = admission

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        done = self._release(prompt_tokens + completion_tokens)
        if done is not None:
            money = _cost(done.price, prompt_tokens, completion_tokens)
            self._books.ledger.add(self._key, Spent(1, prompt_tokens, completion_tokens, money))

    def withdraw(self) -> None:
        self._release(0)

    def _release(self, used_tokens: int) -> _Admission | None:
        """Give back what was set aside, less the tokens used; None when nothing was."""
        done, self._admission = self._admission, None
        if done is None:
            return None
        self._books.ledger.release(self._key, done.reserved)
        if self._key.grant.limits.tokens_per_minute is not None:
            difference = used_tokens - done.taken
            # What was taken in a minute that is over fades by itself; given back now, it would count twice.
            if difference > 0 or (difference < 0 and time.monotonic() < done.minute_ends):
                self._books.counts.correct(f"{self._key.id}/tokens", difference)
        return done

    async def _take(self, what: str, limit: int, amount: int) -> Window:
        taken, window = await self._books.counts.take(f"{self._key.id}/{what}", limit, amount)
        self._windows[what] = window
        if taken:
            return window
        wait = window.seconds_until(amount)
        raise ApiError(
            429,
            f"This key's limit of {limit:,} {what} a minute is reached: {window.remaining:,} left, "
            f"{amount:,} asked for. Try again in {max(1, math.ceil(wait))} s.",
            code="rate_limit_exceeded",
            retry_after=wait,
        )

    def headers(self) -> list[Header]:
        found: list[Header] = []
        for what, window in self._windows.items():
            limit, remaining, reset = _HEADERS[what]
            found += [
                (limit, b"%d" % window.limit),
                (remaining, b"%d" % window.remaining),
                (reset, _duration(window.reset_seconds).encode()),
            ]
        return found


def _cost(price: PriceConfig, prompt_tokens: int, completion_tokens: int) -> float:
    return (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1_000_000


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 1.5s, 1m30s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
