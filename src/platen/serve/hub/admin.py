"""Changing what is served while it is served: `/admin/models`.

A change names the whole of what is to answer to a name; what is loaded already is kept, what is new is loaded
and tried first, and only then do requests go to it. So a change fails before it shows, and fails no request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel

from platen.core.errors import BundleError, PlatenError
from platen.core.urls import shown
from platen.engines.batching.adapter_engine import AdaptedEngine
from platen.engines.protocol import takes_adapters
from platen.models.remote import is_url
from platen.serve.context import ServeContext
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.route_spec import RouteSpec
from platen.serve.hub.routing import SHADOW, CanaryWatch, Route, Variant
from platen.serve.hub.saved_routes import KeptChanges
from platen.serve.hub.served_model import AnyModel, ServedModel, writer
from platen.web.errors import ApiError

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0
"""How often a server asks a shared state what others were told."""
Loader = Callable[[str, str], AnyModel]
"""Loads what a reference (a folder, a Hub name, MODEL@VERSION) leads to, to answer to a name; blocks."""


class VariantStatus(BaseModel):
    label: str
    model: str
    version: str
    weight: float
    answered: int
    running: int
    waiting: int

    @classmethod
    def of(cls, variant: Variant, route: Route) -> VariantStatus:
        stats = variant.model.engine.stats()
        return cls(
            label=variant.label,
            model=_told(variant.model),
            version=variant.model.info.version,
            weight=variant.weight,
            answered=route.answered.get(variant.label, 0),
            running=stats.running,
            waiting=stats.waiting,
        )


class RouteStatus(BaseModel):
    """What answers to a name now."""

    name: str
    variants: list[VariantStatus]
    shadow: VariantStatus | None
    rolled_back: str | None

    @classmethod
    def of(cls, route: Route) -> RouteStatus:
        shadow = VariantStatus.of(route.shadow, route) if route.shadow else None
        variants = [VariantStatus.of(variant, route) for variant in route.variants]
        return cls(name=route.name, variants=variants, shadow=shadow, rolled_back=route.rolled_back)


def _told(model: AnyModel) -> str:
    """What a model was loaded from, without what may be secret in it."""
    return shown(model.source) if is_url(model.source) else model.source


def admin_router(context: ServeContext, load: Loader) -> APIRouter:
    router = APIRouter(prefix="/admin/models", tags=["admin"])
    hub, kept = context.hub, context.kept
    hub.on_roll_back = lambda route: kept.without_canary(route.name)

    @router.get("")
    async def list_routes() -> list[RouteStatus]:
        """What answers to each name, and how it is doing."""
        return [RouteStatus.of(route) for route in hub.routes()]

    @router.put("/{name:path}")
    async def set_route(name: str, body: RouteSpec) -> RouteStatus:
        """Load what is new and let it answer to `name`; running answers end on what they began with."""
        async with kept.changing:
            route = await _loaded(hub, name, body, load)
            hub.set_route(route)
            kept.set(name, body)
        return RouteStatus.of(route)

    @router.delete("/{name:path}")
    async def remove_route(name: str) -> RouteStatus:
        """Let nothing answer to `name` any more; running answers end as they would have."""
        async with kept.changing:
            route = hub.route(name)
            hub.remove(name)
            kept.set(name, None)
        return RouteStatus.of(route)

    return router


async def restore(
    hub: ModelHub, kept: KeptChanges, load: Loader, *, not_ours: Collection[str] = ()
) -> list[str]:
    """Let the names answer as they were told to before the last stop; which did.

    What can't be had any more is logged and left as it is without, and so are names that are `not_ours`.
    """
    restored = [
        name
        for name, spec in kept.changes.items()
        if await _made(hub, name, spec, load, not_ours=not_ours, told="before the last stop")
    ]
    await hub.closed_unused()
    return restored


async def follow(hub: ModelHub, kept: KeptChanges, load: Loader, *, not_ours: Collection[str] = ()) -> None:
    """Make the changes that other servers of the same state are told, until cancelled.

    What can't be made here is logged and left as it is; so is a state that doesn't answer.
    """
    complaint = ""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            async with kept.changing:
                for name, spec in (await kept.learn()).items():
                    await _made(hub, name, spec, load, not_ours=not_ours, told="at another server")
            complaint = ""
        except (PlatenError, ApiError, OSError) as error:
            if str(error) != complaint:
                log.error("what other servers are told can't be followed: %s", error)
            complaint = str(error)


async def _made(
    hub: ModelHub,
    name: str,
    spec: RouteSpec | None,
    load: Loader,
    *,
    not_ours: Collection[str],
    told: str,
) -> bool:
    """Make one change that is known from elsewhere; whether there was something to do that could be done."""
    if spec is None:
        known = any(route.name == name for route in hub.routes())
        if known:
            hub.remove(name)
        return known
    try:
        if name in not_ours:
            raise ApiError(400, f"'{name}' is the name of an upstream now.")
        hub.set_route(await _loaded(hub, name, spec, load))
    except ApiError as error:
        log.error(
            "'%s' is not as it was changed %s; the server goes on without: %s", name, told, error.message
        )
        return False
    return True


async def _loaded(hub: ModelHub, name: str, spec: RouteSpec, load: Loader) -> Route:
    """The route that `spec` asks for. What was loaded for it is closed again when one of its models fails."""
    before = {route.name: route for route in hub.routes()}.get(name)
    known: dict[str, AnyModel] = {}
    if before is not None and not spec.reload:
        models = [variant.model for variant in before.everything()]
        known = {name: model for model in models for name in (model.source, _told(model))}
    fresh: list[AnyModel] = []

    async def model(reference: str) -> AnyModel:
        if reference not in known:
            base, plus, folder = reference.partition("+")
            over = {route.name: route.stable.model for route in hub.routes()}.get(base) if plus else None
            if over is None:
                known[reference] = await asyncio.to_thread(load, reference, name)
            else:
                known[reference] = await adapted(hub, writer(over), Path(folder), name)
            fresh.append(known[reference])
        return known[reference]

    try:
        variants = [Variant(label, await model(ref), weight) for label, ref, weight in spec.parts()]
        shadow = Variant(SHADOW, await model(spec.shadow)) if spec.shadow else None
    except PlatenError as error:
        await _close(hub, fresh)
        message = f"{error.message}. {error.hint or ''}".strip()
        raise ApiError(400, message, param="model", code="model_not_loaded") from None
    except BaseException:
        await _close(hub, fresh)
        raise
    watch = CanaryWatch(spec.canary.limits) if spec.canary else None
    return Route(name, variants, shadow, watch, answered=before.answered if before else {})


async def adapted(hub: ModelHub, base: ServedModel, folder: Path, name: str) -> ServedModel:
    """The adapter in `folder` over a served model, as a model that answers to `name`.

    The base stays open as long as the adapter is. Raises BundleError when it does not fit.
    """
    if not takes_adapters(base.engine):
        raise BundleError(
            f"the {base.engine.name} engine of '{base.info.name}' takes no adapters",
            hint="Serve the bundle itself, not a compiled form: platen serve --engine torch.",
        )
    hub.hold(base.engine)
    try:
        engine = await asyncio.to_thread(AdaptedEngine, base.engine, folder, partial(hub.let_go, base.engine))
    except BaseException:
        hub.let_go(base.engine)
        raise
    version = f"{base.info.version}+{engine.fingerprint[:8]}"
    info = replace(base.info, name=name, version=version)
    return replace(base, engine=engine, info=info, source=f"{base.info.name}+{folder}")


async def _close(hub: ModelHub, models: list[AnyModel]) -> None:
    """Close what was loaded in vain, but for engines that others use too."""
    for model in models:
        hub.close_if_unused(model.engine)
    await hub.closed_unused()
