"""What the routes share: the models, the server's state, its metrics and its guards."""

from __future__ import annotations

from dataclasses import dataclass

from platen.serve.config import ServeConfig
from platen.serve.guards.actions import Origin
from platen.serve.guards.guards import Guards
from platen.serve.guards.output_screening import Oversight
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.saved_routes import KeptChanges
from platen.serve.metrics import Metrics
from platen.web.server_state import ServerState


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
