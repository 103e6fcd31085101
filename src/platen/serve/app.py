"""The HTTP application: OpenAI's API over one engine, a health report and the web page.

`create_app` takes everything it serves and owns none of it, so tests give it an engine of their own.
"""

from __future__ import annotations

import time
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from platen import __version__
from platen.engines.protocol import Engine
from platen.project import ServeConfig
from platen.serve.chat import chat_router
from platen.serve.completions import completions_router
from platen.serve.context import ModelInfo, ServeContext, ServerState
from platen.serve.errors import install_handlers
from platen.serve.gateway import Gateway, closing, open_upstreams
from platen.serve.guard import Guard
from platen.serve.openai_types import Health, ModelCard, ModelList, UpstreamCard
from platen.serve.outgoing import OutgoingGuard
from platen.tokens.tokenizer import Tokenizer

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 8 * 2**20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    model_info: ModelInfo,
    config: ServeConfig,
    *,
    state: ServerState | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    outgoing_guard: OutgoingGuard | None = None,
) -> FastAPI:
    """The application for one model and the upstreams. `state` lets whoever runs it start the draining.

    `outgoing_guard` sees what is sent to upstreams that have `redact: true`. Raises ConfigError when there is
    none for them, when an upstream lacks its key, or when one has the model's own name.
    """
    context = ServeContext(engine, tokenizer, model_info, state or ServerState())
    upstreams = open_upstreams(config.upstreams, model_info.name, outgoing_guard)
    app = FastAPI(
        title="Platen", version=__version__, docs_url=None, redoc_url=None, lifespan=closing(upstreams)
    )
    install_handlers(app)
    if upstreams:
        app.add_middleware(Gateway, upstreams=upstreams, guard=outgoing_guard)
    app.add_middleware(
        Guard,
        state=context.state,
        allow_any_host=config.host not in LOOPBACK,
        max_body_bytes=max_body_bytes,
    )
    app.include_router(completions_router(context))
    app.include_router(chat_router(context))

    remote = [UpstreamCard(id=upstream.name, created=int(time.time())) for upstream in upstreams]

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The model served here, and the upstreams."""
        return ModelList(data=[model_info.card(), *remote])

    @app.get("/v1/models/{model:path}")
    async def retrieve_model(model: str) -> ModelCard | UpstreamCard:
        """The model of this name."""
        for card in remote:
            if card.id == model:
                return card
        context.check_model(model)
        return model_info.card()

    @app.get("/health")
    async def health(response: Response) -> Health:
        """Whether the server takes work (200) or is shutting down or broken (503), and how much it has."""
        stats = engine.stats()
        draining = context.state.draining
        response.status_code = 503 if draining or stats.failed else 200
        return Health(
            status="draining" if draining else "failed" if stats.failed else "ok",
            model=model_info.name,
            running=stats.running,
            waiting=stats.waiting,
            tokens_generated=stats.tokens_generated,
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
