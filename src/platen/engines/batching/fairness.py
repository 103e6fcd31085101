"""Which waiting tenant is served next: the one that has had the least.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
tenant has a counter of its prefilled tokens and, with twice the weight, its decoded tokens; the lowest goes
first. A tenant that comes (back) is lifted to the lowest counter of those that wait, so service can't be
saved up. While two tenants both have requests waiting, their service differs by at most four times the tokens
that a full batch holds.
"""

from __future__ import annotations

from collections.abc import Iterable

PREFILL_WEIGHT = 1.0
DECODE_WEIGHT = 2.0


class TokenCounters:
    """The service that each tenant was given, in weighted tokens."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._last_to_leave = ""

    def served(self, tenant: str) -> float:
        return self._served.get(tenant, 0.0)

    def arrive(self, tenant: str, waiting: Iterable[str]) -> None:
        """A request comes in while `waiting` tenants have others in the queue."""
        queued = set(waiting)
        if tenant in queued:
            return
        floor = min(map(self.served, queued)) if queued else self.served(self._last_to_leave)
        self._served[tenant] = max(self.served(tenant), floor)

    def leave(self, tenant: str) -> None:
        """A tenant's request has left the queue."""
        self._last_to_leave = tenant

    def prefilled(self, tenant: str, tokens: int) -> None:
        self._served[tenant] = self.served(tenant) + PREFILL_WEIGHT * tokens

    def decoded(self, tenant: str) -> None:
        """It was given one new token."""
        self._served[tenant] = self.served(tenant) + DECODE_WEIGHT

    def forget(self) -> None:
        """Start from nothing, when nothing waits or runs."""
        self._served.clear()
        self._last_to_leave = ""
