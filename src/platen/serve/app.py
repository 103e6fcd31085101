"""The HTTP application: OpenAI's API over the models of a hub, a health report and the web page.

`create_app` takes everything it serves and owns none of it, so tests give it engines of their own.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from platen import __version__
from platen.project import ServeConfig
from platen.serve.admin import Loader, admin_router
from platen.serve.chat import chat_router
from platen.serve.completions import completions_router
from platen.serve.context import ServeContext, ServerState
from platen.serve.embeddings import embeddings_router
from platen.serve.errors import install_handlers
from platen.serve.guard import Guard
from platen.serve.hub import ModelHub
from platen.serve.oip.inference import OpenInference
from platen.serve.oip.rest import open_inference_router
from platen.serve.openai_types import Health, ModelCard, ModelList
from platen.serve.openapi import describe
from platen.serve.responses import responses_router
from platen.serve.tokens import tokens_router

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 8 * 2**20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create_app(
    hub: ModelHub,
    config: ServeConfig,
    *,
    state: ServerState | None = None,
    load: Loader | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """The application for the hub's models.

    `state` lets whoever runs it start the draining; with `load` the models can be changed while it runs, on a
    loopback address only.
    """
    context = ServeContext(hub, state or ServerState())
    app = FastAPI(title="Platen", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    describe(app)
    app.add_middleware(
        Guard,
        state=context.state,
        allow_any_host=config.host not in LOOPBACK,
        max_body_bytes=max_body_bytes,
    )
    app.include_router(completions_router(context))
    app.include_router(chat_router(context))
    app.include_router(responses_router(context))
    app.include_router(tokens_router(context))
    app.include_router(embeddings_router(context))
    app.include_router(open_inference_router(OpenInference(hub, context.state)))
    if load is not None and config.host in LOOPBACK:
        app.include_router(admin_router(context, load))

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The models served here; the first is the one that the page talks to."""
        return ModelList(data=[model.info.card() for model in hub.models()])

    @app.get("/v1/models/{model:path}")
    async def retrieve_model(model: str) -> ModelCard:
        """The model of this name."""
        return hub.info(model).card()

    @app.get("/health")
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

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
