"""The HTTP application: OpenAI's API over the models of a hub, a health report and the web page.

`create_app` takes everything it serves and owns none of it, so tests give it engines of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from platen import __version__
from platen.engines.remote.upstream import Upstream
from platen.serve.access.layer import LOOPBACK, Access, AccessControl
from platen.serve.api.chat import chat_router
from platen.serve.api.completions import completions_router
from platen.serve.api.embeddings import embeddings_router
from platen.serve.api.model_list import about_router
from platen.serve.api.oip.inference import OpenInference
from platen.serve.api.oip.rest import open_inference_router
from platen.serve.api.openapi import describe
from platen.serve.api.responses import responses_router
from platen.serve.api.tokenize import tokens_router
from platen.serve.config import ServeConfig
from platen.serve.context import ServeContext
from platen.serve.gateway.layer import Gateway, NewScreens, open_upstreams
from platen.serve.gateway.outgoing_request import NewGuard, OutgoingGuard
from platen.serve.guards.actions import Origin
from platen.serve.guards.guards import Guards
from platen.serve.hub.admin import Loader, admin_router
from platen.serve.metrics import MeteredRequests, metrics_router
from platen.web.errors import install_handlers, unexpected
from platen.web.origin_guard import Guard
from platen.web.timeouts import Patience

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 8 * 2**20


class Application:
    """The routes, behind the layers that every request passes.

    The layers stand before FastAPI's application, not within it: what the gateway answers never comes there,
    which would cost it some 40 µs of processor time.
    """

    def __init__(self, routes: FastAPI, layers: ASGIApp) -> None:
        self._routes, self._layers = routes, layers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._layers(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The server's description of itself."""
        return self._routes.openapi()


def create_app(
    context: ServeContext,
    config: ServeConfig,
    *,
    access: AccessControl | None = None,
    load: Loader | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Application:
    """The application for the context's models and the upstreams.

    `access` knows the keys; without it they must be off. With `load` the models can be changed while it runs,
    where keys are or only this machine can ask. Raises ConfigError when an upstream lacks its key or has the
    name of a model here.
    """
    local = [model.info.name for model in context.hub.models()]
    upstreams = open_upstreams(config.upstreams, local)
    context.state.closers += [upstream.close for upstream in upstreams]
    context.hub.relayed = [upstream.name for upstream in upstreams]
    routes = _routes(context, upstreams)
    if load is not None and (config.keys != "off" or config.host in LOOPBACK):
        routes.include_router(admin_router(context, load))
    paths = [route.path for route in iter_route_contexts(routes.routes)]
    # The innermost first.
    layers: ASGIApp = routes
    if upstreams:
        layers = Gateway(
            layers,
            upstreams=upstreams,
            guard=_vendor_guard(context.guards),
            observer=context.metrics,
            screens=_vendor_screens(context.guards),
        )
    layers = Access(layers, control=access or AccessControl(config))
    layers = Patience(layers, request_seconds=config.request_seconds, idle_seconds=config.idle_seconds)
    layers = Guard(
        layers,
        state=context.state,
        allow_any_host=config.host not in LOOPBACK,
        max_body_bytes=max_body_bytes,
    )
    layers = MeteredRequests(layers, metrics=context.metrics, paths=filter(None, paths))
    return Application(routes, ServerErrorMiddleware(layers, handler=unexpected))


def _routes(context: ServeContext, upstreams: Sequence[Upstream]) -> FastAPI:
    """All that this server answers by itself."""
    app = FastAPI(title="Platen", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    describe(app)
    app.include_router(completions_router(context))
    app.include_router(chat_router(context))
    app.include_router(metrics_router(context.metrics))
    app.include_router(responses_router(context))
    app.include_router(tokens_router(context))
    app.include_router(embeddings_router(context))
    app.include_router(open_inference_router(OpenInference(context)))
    app.include_router(about_router(context, upstreams))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _vendor_guard(guards: Guards) -> NewGuard:
    """What looks over a request's texts before they leave for an upstream."""

    def guard_for(scope: Scope, model: str) -> OutgoingGuard:
        origin = Origin.of(scope, model, "upstream")
        return lambda text: guards.redact(text, origin)

    return guard_for


def _vendor_screens(guards: Guards) -> NewScreens | None:
    """What looks over the answers of upstreams; None where no guard does."""
    if not guards.screens_output:
        return None
    return lambda scope, model: partial(guards.outgoing, Origin.of(scope, model, "upstream"))
