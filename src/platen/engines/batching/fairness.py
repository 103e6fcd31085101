"""Who is next among waiting tenants: the one that has had the least.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
tenant has a counter of the service it was given, its prompt tokens read and, weighing twice as much, its
tokens written; the tenant with the lowest goes first. A tenant that comes (back) is lifted to the lowest
counter of those who wait, so that nobody saves up for later. While two tenants both have requests waiting,
what they are given differs by at most four times the tokens that a full batch holds.
"""

from __future__ import annotations

from collections.abc import Iterable

READ_WEIGHT = 1.0
WRITE_WEIGHT = 2.0


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

    def read(self, tenant: str, tokens: int) -> None:
        self._served[tenant] = self.served(tenant) + READ_WEIGHT * tokens

    def wrote(self, tenant: str) -> None:
        """It was given one new token."""
        self._served[tenant] = self.served(tenant) + WRITE_WEIGHT

    def forget(self) -> None:
        """Nobody waits and nothing runs: there is nothing to be fair about."""
        self._served.clear()
        self._last_to_leave = ""
