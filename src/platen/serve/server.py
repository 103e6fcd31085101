"""Runs the application with uvicorn until it is told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from platen.core.download import Report, no_report
from platen.core.phases import Phase, no_phase
from platen.models.resolve import Location, ResolvedModel, Resolver
from platen.serve.access.layer import AccessControl
from platen.serve.api.oip.inference import OpenInference
from platen.serve.app import create_app
from platen.serve.config import ServeConfig
from platen.serve.context import ServeContext
from platen.serve.hub.admin import follow, restore
from platen.serve.hub.loading import ServeError, further_models, kv_limits, open_any
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.saved_routes import KeptChanges
from platen.serve.hub.served_model import AnyModel
from platen.web.connection import Connection
from platen.web.server_state import ServerState

if TYPE_CHECKING:
    from platen.serve.api.oip.rpc import RpcServer


@dataclass(frozen=True)
class Started:
    """What is told once a server answers: where, what the model is and why this engine runs it.

    `kind` is gateway when there is none.
    """

    url: str
    kind: str
    why: str
    grpc_address: str | None = None
    kv_bytes: int = 0
    """What keys and values may take, where an engine of ours computes them."""
    longest: int = 0
    """Tokens that prompt and response of one request may have."""
    restored: Sequence[str] = ()
    """Names that answer as they were told to before the last stop."""


def serve_bundle(
    model: ResolvedModel | Location | Path | str | None,
    *,
    name: str,
    config: ServeConfig,
    access: AccessControl | None = None,
    on_ready: Callable[[Started], None],
    resolver: Resolver | None = None,
    engine: str | None = None,
    report: Report = no_report,
    phase: Phase = no_phase,
    kept: KeptChanges | None = None,
) -> None:
    """Serve a bundle, a compiled folder or an embedding model under `name` until SIGTERM or SIGINT.

    Without one, only the upstreams and further models of the configuration are served.

    `access` knows the keys, if there are any. `resolver` knows the registered models, for the first one and
    those that the server is asked to load later on; `engine` must run the first. `report` is told how far a
    download is, and `phase` times what starting is made of. What is `kept` of earlier changes is made again.

    On the first signal the server takes no more work and finishes what it has, for at most
    `drain_seconds`; a second SIGINT ends it at once. Raises ServeError when the address can't be had or there
    is nothing to serve, BundleError when the bundle can't be opened.
    """
    # What imports have left is there for good: over 200,000 objects that the garbage collector would
    # look through every few seconds, for a tenth of a second. Models come later, as they can go again.
    gc.freeze()
    listener = listen(config.host, config.port)
    with listener:
        access, resolver = access or AccessControl(config), resolver or Resolver()

        def load(reference: str, name: str) -> AnyModel:
            return open_any(reference, name, config, resolver=resolver)[0]

        models: list[AnyModel] = []
        kind, why = "gateway", ""
        if model is not None:
            first, why = open_any(
                model, name, config, resolver=resolver, engine=engine, report=report, phase=phase
            )
            models, kind = [first], first.info.kind
        elif not config.upstreams and not config.models:
            raise ServeError("there is nothing to serve", hint="Name a model, or give serve.upstreams.")
        taken = name if models else None
        hub = ModelHub([*models, *further_models(config, taken, resolver, report=report, phase=phase)])
        context = ServeContext.of(hub, config, state := ServerState(), kept)
        with phase("restore changes"):
            remote = [upstream.name for upstream in config.upstreams]
            restored = asyncio.run(restore(hub, context.kept, load, not_ours=remote))
        app = create_app(context, config, access=access, load=load)
        rpc = _rpc_server(context, access, config)
        starting = contextlib.ExitStack()
        kv = kv_limits(models)

        def ready(url: str) -> None:
            starting.close()
            on_ready(Started(url, kind, why, rpc.address if rpc else None, *kv, restored))

        others = partial(follow, hub, context.kept, load, not_ours=remote) if context.kept.shared else None
        server = Server(app, hub, state, config, ready, rpc, others)
        try:
            starting.enter_context(phase("listen"))
            server.run(sockets=[listener])
        finally:
            asyncio.run(hub.close())
            access.close()


def _rpc_server(context: ServeContext, access: AccessControl, config: ServeConfig) -> RpcServer | None:
    if config.grpc_port is None:
        return None
    from platen.serve.api.oip.rpc import RpcServer

    return RpcServer(OpenInference(context), context.state, access, config.host, config.grpc_port)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ServeError with what to do."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ServeError(
            f"no network address for the host '{host}': {error.strerror}",
            hint="Use 127.0.0.1 for this machine only or 0.0.0.0 for the whole network.",
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"can't listen on {host}:{port}: {error.strerror}", hint=_hint(error, port)
        ) from None
    return listener


def _hint(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Stop what uses the port, or take another: --port {port + 1}, or --port 0 for any free one."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Ports below 1024 need special rights; take a higher one: --port 8000."
    return "Use 127.0.0.1 for this machine only or 0.0.0.0 for the whole network."


class Server(uvicorn.Server):
    """uvicorn, but a signal starts draining, draining answers 503, and a drained server exits 0."""

    def __init__(
        self,
        app: object,
        hub: ModelHub,
        state: ServerState,
        config: ServeConfig,
        on_ready: Callable[[str], None],
        rpc: RpcServer | None = None,
        follow: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """`follow`, if given, runs as long as the server does."""
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                loop="uvloop",
                http=partial(Connection, idle_seconds=config.idle_seconds),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._hub, self._state, self._drain_seconds = hub, state, config.drain_seconds
        self._host, self._on_ready, self._rpc = config.host, on_ready, rpc
        self._follow = follow
        self._following: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Start draining; safe from any thread and from a signal handler."""
        self._state.start_draining(self._drain_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        if self._rpc is not None:
            await self._rpc.start()
        if self._follow is not None:
            self._following = asyncio.create_task(self._follow())
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._on_ready(f"http://{host}:{sockets[0].getsockname()[1]}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._following is not None:
            self._following.cancel()
        for close in self._state.closers:
            await close()
        if self._rpc is not None:
            await self._rpc.stop()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if self._state.draining and not self.should_exit:
            if self._state.active == 0:
                self.should_exit = True
            elif self._state.drain_seconds_left == 0:
                await self._hub.close()  # ends what still runs, each stream with an error
                self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.draining and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        self.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while serving, and don't raise them again afterwards: a drained exit is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
