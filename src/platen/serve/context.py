"""What the routes share: the models, the server's state, its metrics and its guards."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from platen.projectserving import ServeConfig
from platen.serve.guards import Guards, Origin
from platen.serve.hub import ModelHub
from platen.serve.kept import KeptChanges
from platen.serve.metrics import Metrics
from platen.serve.oversight import Oversight


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


@dataclass(frozen=True)
class ServeContext:
    """`state` lets whoever runs the server start the draining; `kept` has what it was told over /admin."""

    hub: ModelHub
    state: ServerState
    metrics: Metrics
    guards: Guards
    kept: KeptChanges

    @classmethod
    def of(
        cls,
        hub: ModelHub,
        config: ServeConfig,
        state: ServerState | None = None,
        kept: KeptChanges | None = None,
    ) -> ServeContext:
        """For the hub's models. Raises ConfigError when a guard's list can't be read."""
        metrics = Metrics()
        metrics.watch(hub.stats)
        return cls(
            hub, state or ServerState(), metrics, Guards(config.guards, metrics), kept or KeptChanges()
        )

    def oversight(self, origin: Origin, *, counted: bool = True) -> Oversight:
        """What looks over one answer: the guards and, if it is `counted`, the metrics."""
        screen = (lambda: self.guards.outgoing(origin)) if self.guards.screens_output else None
        return Oversight(self.metrics if counted else None, origin.model, screen)
