"""The HTTP application: OpenAI's API over one engine, a health report and the web page.

`create_app` takes everything it serves and owns none of it, so tests give it an engine of their own.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.routing import iter_route_contexts
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from platen import __version__
from platen.engines.protocol import Engine
from platen.project import ServeConfig
from platen.serve.chat import chat_router
from platen.serve.completions import completions_router
from platen.serve.context import ModelInfo, ServeContext, ServerState
from platen.serve.errors import install_handlers
from platen.serve.guard import Guard
from platen.serve.metrics import MeteredRequests, metrics_router
from platen.serve.openai_types import Health, ModelCard, ModelList
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
) -> FastAPI:
    """The application for one model. `state` lets whoever runs it start the draining."""
    context = ServeContext(engine, tokenizer, model_info, state or ServerState())
    context.metrics.watch(lambda: {model_info.name: engine.stats()})
    app = FastAPI(title="Platen", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    app.add_middleware(
        Guard,
        state=context.state,
        allow_any_host=config.host not in LOOPBACK,
        max_body_bytes=max_body_bytes,
    )
    app.include_router(completions_router(context))
    app.include_router(chat_router(context))
    app.include_router(metrics_router(context.metrics))

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The model served here."""
        return ModelList(data=[model_info.card()])

    @app.get("/v1/models/{model:path}")
    async def retrieve_model(model: str) -> ModelCard:
        """The model of this name."""
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
    # Last, so that it stands before everything else and counts what any layer refuses.
    paths = [route.path for route in iter_route_contexts(app.routes)]
    app.add_middleware(MeteredRequests, metrics=context.metrics, paths=filter(None, paths))
    return app
