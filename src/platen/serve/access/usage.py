"""What each key has used this month, held against its budgets, and written to the state every second.

Counted in memory and written in batches, so that a request costs no disk access. A process that is killed
loses what it counted since the last batch, a second or so, and what its running requests had used.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from platen.core.state.interface import StateError
from platen.serve.access.keys import ApiKey
from platen.serve.access.keystore import KeyStore, Snapshot, Spent, month_of
from platen.web.errors import ApiError

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0


@dataclass(slots=True)
class Reservation:
    """What a running request may still use of its key's budgets."""

    tokens: int
    money: float


class Ledger:
    """All keys of a store and what they have used; `sync` exchanges both with the store."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._seen = store.revision()
        self._known = store.read()
        self._new: dict[tuple[str, str], Spent] = {}
        self._being_written: dict[tuple[str, str], Spent] = {}
        self._complaint = ""
        self._reserved: defaultdict[str, Reservation] = defaultdict(lambda: Reservation(0, 0.0))

    def key(self, key_id: str) -> ApiKey | None:
        return self._known.keys.get(key_id)

    @property
    def empty(self) -> bool:
        return not self._known.keys

    def spent(self, key_id: str) -> Spent:
        """What a key has used this month, as far as this process knows."""
        month = month_of(datetime.now(UTC))
        known = self._known.spent.get(key_id, Spent()) if self._known.month == month else Spent()
        here = (key_id, month)
        return known + self._being_written.get(here, Spent()) + self._new.get(here, Spent())

    def reserve(self, key: ApiKey, tokens: int, money: float) -> Reservation:
        """Set budget aside for a request. Raises ApiError when too little is left."""
        limits = key.grant.limits
        held = self._reserved[key.id]
        if limits.tokens is not None or limits.money is not None:
            spent = self.spent(key.id)
            if limits.tokens is not None and spent.tokens + held.tokens + tokens > limits.tokens:
                left = max(0, limits.tokens - spent.tokens - held.tokens)
                raise _exhausted(f"{limits.tokens:,} tokens", f"{left:,}", f"up to {tokens:,}")
            if limits.money is not None and spent.money + held.money + money > limits.money:
                left_money = max(0.0, limits.money - spent.money - held.money)
                raise _exhausted(f"{limits.money:,.2f}", f"{left_money:,.4f}", f"up to {money:,.4f}")
        held.tokens += tokens
        held.money += money
        return Reservation(tokens, money)

    def release(self, key: ApiKey, reserved: Reservation) -> None:
        """What was set aside is not needed any more."""
        held = self._reserved[key.id]
        held.tokens -= reserved.tokens
        held.money = held.money - reserved.money if held.tokens else 0.0

    def add(self, key: ApiKey, spent: Spent) -> None:
        """Count what a request has used."""
        here = (key.id, month_of(datetime.now(UTC)))
        before = self._new.get(here)
        self._new[here] = spent if before is None else before + spent

    async def sync(self) -> None:
        """Write what is new and learn what others have written. Never raises: the next time may do better."""
        writing, self._new = self._new, {}
        self._being_written = writing
        complaint = ""
        try:
            snapshot = await asyncio.to_thread(self._exchange, writing)
            if snapshot is not None:
                self._known = snapshot
        except (StateError, OSError) as error:
            complaint = str(error)
            for here, spent in writing.items():
                self._new[here] = self._new.get(here, Spent()) + spent
        self._being_written = {}
        if complaint and complaint != self._complaint:
            log.error("keys and their usage can't be brought up to date: %s", complaint)
        self._complaint = complaint

    def close(self) -> None:
        """Write what is new, at the end."""
        if self._new:
            self._store.add(self._new)
            self._new = {}

    def _exchange(self, writing: dict[tuple[str, str], Spent]) -> Snapshot | None:
        revision = self._store.revision()
        if not writing and revision == self._seen:
            return None
        snapshot = self._store.add(writing) if writing else self._store.read()
        self._seen = revision
        return snapshot


def _exhausted(budget: str, left: str, wanted: str) -> ApiError:
    now = datetime.now(UTC)
    next_month = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
    return ApiError(
        429,
        f"This key's budget for the month is {budget}; {left} is left and this request may use {wanted}.",
        code="insufficient_quota",
        retry_after=(next_month - now).total_seconds(),
    )
