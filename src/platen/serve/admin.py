"""Changing what is served while it is served: `/admin/models`.

A change names the whole of what is to answer to a name; what is loaded already is kept, what is new is loaded
and tried first, and only then do requests go to it. So a change fails before it shows, and fails no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from platen.engines.adapted import AdaptedEngine
from platen.engines.batching import BatchingEngine
from platen.errors import BundleError, PlatenError
from platen.models.remote import is_url, shown
from platen.serve.context import ServeContext
from platen.serve.errors import ApiError
from platen.serve.hub import ModelHub
from platen.serve.served import AnyModel, ServedModel, writer
from platen.serve.traffic import CANARY, SHADOW, STABLE, CanaryLimits, CanaryWatch, Route, Variant

Loader = Callable[[str, str], AnyModel]
"""Loads what a reference (a folder, a Hub name, MODEL@VERSION) leads to, to answer to a name; blocks."""

Reference = Annotated[str, Field(min_length=1, max_length=4096)]
"""What a loader takes; or NAME+FOLDER, a LoRA adapter over the model that answers to NAME."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class VariantSpec(_Strict):
    """One part of a split."""

    label: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
    model: Reference
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class CanarySpec(_Strict):
    """A new model that gets a small share until it has shown itself, and is taken back when it fails."""

    model: Reference
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_requests: Annotated[int, Field(ge=1, le=10_000)] = CanaryLimits.min_requests
    window: Annotated[int, Field(ge=1, le=100_000)] = CanaryLimits.window
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = CanaryLimits.max_error_rate
    max_slowdown: Annotated[float, Field(ge=1)] = CanaryLimits.max_slowdown

    @property
    def limits(self) -> CanaryLimits:
        window = max(self.window, self.min_requests)
        return CanaryLimits(self.min_requests, window, self.max_error_rate, self.max_slowdown)


class RouteSpec(_Strict):
    """All that is to answer to a name: a model; or parts of a split; and a canary or a shadow beside it.

    With `reload` a model is loaded again though its reference has not changed.
    """

    model: Reference | None = None
    variants: Annotated[list[VariantSpec], Field(max_length=16)] = []
    canary: CanarySpec | None = None
    shadow: Reference | None = None
    reload: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> RouteSpec:
        if (self.model is None) == (not self.variants):
            raise ValueError("give model, or variants, not both")
        if self.variants and self.canary:
            raise ValueError("a canary goes beside a single model, not beside variants")
        labels = [variant.label for variant in self.variants]
        if len(set(labels)) < len(labels) or {CANARY, SHADOW} & set(labels):
            raise ValueError("each variant needs a label of its own, other than canary and shadow")
        return self

    def parts(self) -> list[tuple[str, str, float]]:
        """Label, reference and weight of each variant, the stable one first."""
        if self.model is None:
            return [(variant.label, variant.model, variant.weight) for variant in self.variants]
        if self.canary is None:
            return [(STABLE, self.model, 1.0)]
        share = self.canary.share
        return [(STABLE, self.model, 1 - share), (CANARY, self.canary.model, share)]


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
    one_at_a_time = asyncio.Lock()

    @router.get("")
    async def list_routes() -> list[RouteStatus]:
        """What answers to each name, and how it is doing."""
        return [RouteStatus.of(route) for route in context.hub.routes()]

    @router.put("/{name:path}")
    async def set_route(name: str, body: RouteSpec) -> RouteStatus:
        """Load what is new and let it answer to `name`; running answers end on what they began with."""
        async with one_at_a_time:
            route = await _loaded(context, name, body, load)
            context.hub.set_route(route)
        return RouteStatus.of(route)

    @router.delete("/{name:path}")
    async def remove_route(name: str) -> RouteStatus:
        """Let nothing answer to `name` any more; running answers end as they would have."""
        async with one_at_a_time:
            route = context.hub.route(name)
            context.hub.remove(name)
        return RouteStatus.of(route)

    return router


async def _loaded(context: ServeContext, name: str, spec: RouteSpec, load: Loader) -> Route:
    """The route that `spec` asks for. What was loaded for it is closed again when one of its models fails."""
    before = {route.name: route for route in context.hub.routes()}.get(name)
    known: dict[str, AnyModel] = {}
    if before is not None and not spec.reload:
        models = [variant.model for variant in before.everything()]
        known = {name: model for model in models for name in (model.source, _told(model))}
    fresh: list[AnyModel] = []

    async def model(reference: str) -> AnyModel:
        if reference not in known:
            base, plus, folder = reference.partition("+")
            over = (
                {route.name: route.stable.model for route in context.hub.routes()}.get(base) if plus else None
            )
            if over is None:
                known[reference] = await asyncio.to_thread(load, reference, name)
            else:
                known[reference] = await adapted(context.hub, writer(over), Path(folder), name)
            fresh.append(known[reference])
        return known[reference]

    try:
        variants = [Variant(label, await model(ref), weight) for label, ref, weight in spec.parts()]
        shadow = Variant(SHADOW, await model(spec.shadow)) if spec.shadow else None
    except PlatenError as error:
        await _close(fresh)
        message = f"{error.message}. {error.hint or ''}".strip()
        raise ApiError(400, message, param="model", code="model_not_loaded") from None
    except BaseException:
        await _close(fresh)
        raise
    watch = CanaryWatch(spec.canary.limits) if spec.canary else None
    return Route(name, variants, shadow, watch, answered=before.answered if before else {})


async def adapted(hub: ModelHub, base: ServedModel, folder: Path, name: str) -> ServedModel:
    """The adapter in `folder` over a served model, as a model that answers to `name`.

    The base stays open as long as the adapter is. Raises BundleError when it does not fit.
    """
    if not isinstance(base.engine, BatchingEngine):
        raise BundleError(f"the {base.engine.name} engine of '{base.info.name}' takes no adapters")
    hub.hold(base.engine)
    try:
        engine = await asyncio.to_thread(AdaptedEngine, base.engine, folder, partial(hub.let_go, base.engine))
    except BaseException:
        hub.let_go(base.engine)
        raise
    version = f"{base.info.version}+{engine.fingerprint[:8]}"
    info = replace(base.info, name=name, version=version)
    return replace(base, engine=engine, info=info, source=f"{base.info.name}+{folder}")


async def _close(models: list[AnyModel]) -> None:
    for model in models:
        await model.engine.close()
