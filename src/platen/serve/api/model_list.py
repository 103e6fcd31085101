"""What a server tells of itself: `/v1/models` and `/health`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from platen.engines.remote.upstream import Upstream
from platen.serve.access.layer import caller_of
from platen.serve.api.openai_types import Health, ModelCard, ModelList, UpstreamCard
from platen.serve.context import ServeContext


def about_router(context: ServeContext, upstreams: Sequence[Upstream]) -> APIRouter:
    router, hub = APIRouter(), context.hub
    now = int(time.time())
    remote = {upstream.name: UpstreamCard(id=upstream.name, created=now) for upstream in upstreams}

    @router.get("/v1/models")
    async def list_models(request: Request) -> ModelList:
        """The models that the caller may use, those served here first."""
        caller = caller_of(request)
        cards: list[ModelCard | UpstreamCard] = [
            *(model.info.card() for model in hub.models()),
            *remote.values(),
        ]
        return ModelList(data=[card for card in cards if caller.may_use(card.id)])

    @router.get("/v1/models/{model:path}")
    async def retrieve_model(model: str, request: Request) -> ModelCard | UpstreamCard:
        """The model of this name."""
        caller_of(request).check_model(model)
        return remote[model] if model in remote else hub.info(model).card()

    @router.get("/health")
    async def health(response: Response) -> Health:
        """Whether the server takes work (200) or is shutting down or broken (503), and how much it has."""
        stats = [model.engine.stats() for model in hub.models()]
        failed = any(one.failed for one in stats)
        draining = context.state.draining
        response.status_code = 503 if draining or failed else 200
        return Health(
            status="draining" if draining else "failed" if failed else "ok",
            models=[model.info.name for model in hub.models()],
            running=sum(one.running for one in stats),
            waiting=sum(one.waiting for one in stats),
            tokens_generated=sum(one.tokens_generated for one in stats),
        )

    return router
