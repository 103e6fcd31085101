"""What the routes share: the models and the server's state."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from platen.serve.hub import ModelHub


@dataclass
class ServerState:
    """`active` counts requests being answered; while `draining` new ones are refused."""

    draining: bool = False
    active: int = 0
    drain_until: float = 0.0

    def start_draining(self, seconds: float) -> None:
        """Refuse what comes from now on and give what runs this long to finish."""
        if not self.draining:
            self.drain_until = time.monotonic() + seconds
            self.draining = True

    @property
    def drain_seconds_left(self) -> float:
        return max(0.0, self.drain_until - time.monotonic())


@dataclass(frozen=True)
class ServeContext:
    hub: ModelHub
    state: ServerState = field(default_factory=ServerState)
