"""Runs the application with uvicorn until it is told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from platen.download import Report, no_report
from platen.engines.local import LocalModel, open_model, warm_up
from platen.engines.protocol import EngineFailed
from platen.engines.vllm_child import VllmOptions
from platen.errors import PlatenError
from platen.models.store import ModelCache
from platen.phases import Phase, no_phase
from platen.project import ServeConfig
from platen.serve.app import create_app
from platen.serve.context import ServerState
from platen.serve.hub import ModelHub
from platen.serve.served import ModelInfo, ServedModel

log = logging.getLogger(__name__)


class ServeError(PlatenError):
    """The server can't start where it was told to."""


def serve_bundle(
    bundle_path: Path | str,
    *,
    name: str,
    config: ServeConfig,
    on_ready: Callable[[str, str], None],
    find: Callable[[str], Path | str] = str,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> None:
    """Serve a bundle or a compiled folder under `name` until SIGTERM or SIGINT.

    `on_ready` gets the URL, and why this engine runs it. `find` tells where a model lies that the server is
    asked to load later on, by a reference such as MODEL@VERSION. `report` is told how far a download is, and
    `phase` times what starting is made of.

    On the first signal the server takes no more work and finishes what it has, for at most
    `drain_seconds`; a second SIGINT ends it at once. Raises ServeError when the address can't be had,
    BundleError when the bundle can't be opened.
    """
    listener = listen(config.host, config.port)
    with listener:

        def load(reference: str, name: str) -> ServedModel:
            return served_model(open_configured(find(reference), config), name, reference)

        model = open_configured(bundle_path, config, report=report, phase=phase)
        hub, state = ModelHub([served_model(model, name, str(bundle_path))]), ServerState()
        app = create_app(hub, config, state=state, load=load)
        starting = contextlib.ExitStack()

        def ready(url: str) -> None:
            starting.close()
            on_ready(url, model.why)

        server = Server(app, hub, state, config, ready)
        try:
            starting.enter_context(phase("listen"))
            server.run(sockets=[listener])
        finally:
            asyncio.run(hub.close())


def open_configured(
    path_or_name: Path | str, config: ServeConfig, *, report: Report = no_report, phase: Phase = no_phase
) -> LocalModel:
    """Open a model as configured; it has written a short text when this returns. Raises PlatenError."""
    cache = ModelCache(max_bytes=int(config.cache_gb * 1e9))

    def waiting(shown: str) -> None:
        log.warning("waiting for another process that is downloading %s", shown)

    model = open_model(
        path_or_name,
        max_concurrent=config.max_concurrent,
        max_queue=config.max_queue,
        fetched=lambda url: cache.open(url, report=report, waiting=waiting, phase=phase),
        vllm=None if config.vllm is None else VllmOptions(**config.vllm.model_dump()),
        phase=phase,
    )
    try:
        with phase("warm-up"):
            asyncio.run(warm_up(model))
    except EngineFailed as error:
        asyncio.run(model.engine.close())
        raise ServeError(
            f"{path_or_name} opens, but can't write: {error}", hint="Check it with platen generate."
        ) from None
    return model


def served_model(model: LocalModel, name: str, source: str) -> ServedModel:
    """An opened bundle as clients see it under `name`."""
    info = ModelInfo(
        name=name,
        context_window=model.engine.capacity().context_window,
        parameters=model.parameters,
        kind=model.kind,
        fingerprint=model.fingerprint,
        created=int(model.path.stat().st_mtime),
        version=model.fingerprint[:12],
    )
    return ServedModel(model.engine, model.tokenizer, info, source)


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
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._hub, self._state, self._drain_seconds = hub, state, config.drain_seconds
        self._host, self._on_ready = config.host, on_ready

    def stop(self) -> None:
        """Start draining; safe from any thread and from a signal handler."""
        self._state.start_draining(self._drain_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._on_ready(f"http://{host}:{sockets[0].getsockname()[1]}")

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
