"""Runs the application with uvicorn until it is told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from platen.engines.local import LocalModel, open_model
from platen.errors import PlatenError
from platen.project import ServeConfig
from platen.serve.app import create_app
from platen.serve.context import ServerState
from platen.serve.hub import ModelHub
from platen.serve.served import ModelInfo, ServedModel


class ServeError(PlatenError):
    """The server can't start where it was told to."""


def serve_bundle(
    bundle_path: Path | str, *, name: str, config: ServeConfig, on_ready: Callable[[str, str], None]
) -> None:
    """Serve a bundle or a compiled folder under `name` until SIGTERM or SIGINT.

    `on_ready` gets the URL, and why this engine runs it.

    On the first signal the server takes no more work and finishes what it has, for at most
    `drain_seconds`; a second SIGINT ends it at once. Raises ServeError when the address can't be had,
    BundleError when the bundle can't be opened.
    """
    listener = listen(config.host, config.port)
    with listener:
        model = open_model(bundle_path, max_concurrent=config.max_concurrent, max_queue=config.max_queue)
        hub, state = ModelHub([served_model(model, name)]), ServerState()
        app = create_app(hub, config, state=state)
        server = Server(app, hub, state, config, lambda url: on_ready(url, model.why))
        try:
            server.run(sockets=[listener])
        finally:
            asyncio.run(hub.close())


def served_model(model: LocalModel, name: str) -> ServedModel:
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
    return ServedModel(model.engine, model.tokenizer, info)


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
