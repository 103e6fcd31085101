"""The models of one server: which name leads to which loaded model, and who is still using it.

A request takes a lease on a model and gives it back when its answer is over. So a model can be replaced while
requests run: new ones go to the new model, and the old engine is closed when the last lease on it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from platen.engines.protocol import EngineStats
from platen.engines.threads import give_back_memory
from platen.serve.hub.routing import Outcome, Route, Variant
from platen.serve.hub.served_model import AnyModel, ModelInfo, Worker
from platen.web.errors import ApiError

log = logging.getLogger(__name__)


class Lease:
    """The right to use a model for one answer. Give it back exactly once; more often does no harm."""

    def __init__(self, hub: ModelHub, route: Route, variant: Variant) -> None:
        self._hub, self._route, self._variant = hub, route, variant
        self._held = True
        self.model, self.label = variant.model, variant.label
        hub.hold(self.model.engine)

    @property
    def shadow(self) -> Variant | None:
        """What is to get a copy of the request."""
        return self._route.shadow

    @property
    def is_stable(self) -> bool:
        return self._variant is self._route.stable

    @property
    def headers(self) -> dict[str, str]:
        """Which version and variant answers, for the response."""
        info = self.model.info
        told = {"x-platen-version": info.version, "x-platen-variant": self.label}
        return told if info.registered is None else told | {"x-platen-registered": info.registered}

    def elsewhere(self) -> Lease | None:
        """A lease on the stable variant, for a request that another one failed; None on the stable one."""
        return None if self.is_stable else Lease(self._hub, self._route, self._route.stable)

    def release(self, outcome: Outcome | None = None) -> None:
        """The answer is over; no `outcome` when it says nothing of the model, as when the client left."""
        if not self._held:
            return
        self._held = False
        if outcome is not None:
            complaint = self._route.count(self.label, outcome)
            if complaint is not None:
                self._hub.roll_back(self._route, complaint)
        self._hub.let_go(self.model.engine)


class ModelHub:
    """Models by name. All methods belong to the server's event loop."""

    def __init__(self, models: Iterable[AnyModel] = ()) -> None:
        self._routes: dict[str, Route] = {}
        self._leases: dict[Worker, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.on_roll_back: Callable[[Route], None] = lambda route: None
        """Told of each route whose canary was taken back."""
        self.relayed: Sequence[str] = ()
        """Names that a gateway before the routes answers to; they are told, and answered for nowhere else."""
        for model in models:
            self.set_route(Route.to(model))

    def set_route(self, route: Route) -> None:
        """Let `route` answer to its name. An engine that nothing leads to any more closes when it is idle."""
        before = self._routes.get(route.name)
        self._routes[route.name] = route
        self._close_unused(before)

    def remove(self, name: str) -> None:
        """Take no more requests for `name`; running requests finish. Raises ApiError for an unknown name."""
        route = self.route(name)
        del self._routes[name]
        self._close_unused(route)

    def roll_back(self, route: Route, reason: str) -> None:
        """Take a route's canary back."""
        log.warning("the canary of '%s' is rolled back: %s", route.name, reason)
        before = Route(route.name, route.variants, route.shadow)
        route.roll_back(reason)
        self.on_roll_back(route)
        self._close_unused(before)

    def acquire(self, name: str, *, user: str | None = None) -> Lease:
        """A lease on what answers to `name`, for this user. Raises ApiError for an unknown name."""
        route = self.route(name)
        return Lease(self, route, route.choose(user))

    def acquire_shadow(self, lease: Lease) -> Lease | None:
        """A lease on the shadow of the route that `lease` came by, if it has one."""
        return None if lease.shadow is None else Lease(self, lease._route, lease.shadow)

    def route(self, name: str) -> Route:
        """What answers to `name`. Raises ApiError for an unknown one."""
        if name not in self._routes:
            here = ", ".join(f"'{known}'" for known in (*self._routes, *self.relayed)) or "none"
            message = (
                f"The model '{name}' is elsewhere; this is only for models of this server itself."
                if name in self.relayed
                else f"The model '{name}' does not exist here; this server has {here}."
            )
            raise ApiError(404, message, param="model", code="model_not_found")
        return self._routes[name]

    def routes(self) -> list[Route]:
        """All of them, the first one first."""
        return list(self._routes.values())

    def info(self, name: str) -> ModelInfo:
        """What clients are told of the model of this name. Raises ApiError for an unknown one."""
        return self.route(name).stable.model.info

    def models(self) -> list[AnyModel]:
        """What answers to each name, the first one first."""
        return [route.stable.model for route in self._routes.values()]

    def stats(self) -> dict[tuple[str, str], EngineStats]:
        """What the engine of each model is doing, by name and version."""
        models = [v.model for route in self._routes.values() for v in route.everything()]
        return {(model.info.name, model.info.version): model.engine.stats() for model in models}

    def engines(self) -> list[Worker]:
        """All that are open, in use or being left."""
        used = [v.model.engine for route in self._routes.values() for v in route.everything()]
        return list(dict.fromkeys([*used, *self._leases]))

    async def close(self) -> None:
        """Close all engines; what still runs ends with an error."""
        for engine in self.engines():
            await engine.close()
        await self.closed_unused()

    async def closed_unused(self) -> None:
        """Wait until the engines are closed that nothing leads to any more."""
        here = asyncio.get_running_loop()
        await asyncio.gather(*(task for task in self._closing if task.get_loop() is here))

    def hold(self, engine: Worker) -> None:
        self._leases[engine] = self._leases.get(engine, 0) + 1

    def let_go(self, engine: Worker) -> None:
        self._leases[engine] -= 1
        if self._leases[engine] == 0:
            del self._leases[engine]
            self.close_if_unused(engine)

    def _close_unused(self, before: Route | None) -> None:
        if before is not None:
            for variant in before.everything():
                self.close_if_unused(variant.model.engine)

    def close_if_unused(self, engine: Worker) -> None:
        """Close an engine in a while, unless a name leads to it or somebody holds it."""
        if engine in self.engines():
            return
        task = asyncio.get_running_loop().create_task(_close(engine))
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("closing an engine failed", exc_info=task.exception())


async def _close(engine: Worker) -> None:
    await engine.close()
    await asyncio.to_thread(give_back_memory)
