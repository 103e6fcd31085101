"""How busy a server is and whether it takes new requests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class ServerState:
    """`active` counts requests being answered; while `draining` new ones are refused."""

    draining: bool = False
    active: int = 0
    drain_until: float = 0.0
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What is called when the server ends, before it waits for the last of its answers."""

    def start_draining(self, seconds: float) -> None:
        """Refuse what comes from now on and give what runs this long to finish."""
        if not self.draining:
            self.drain_until = time.monotonic() + seconds
            self.draining = True

    @property
    def drain_seconds_left(self) -> float:
        return max(0.0, self.drain_until - time.monotonic())
