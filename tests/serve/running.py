"""Servers for tests: the real application under the real uvicorn on a free loopback port."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from platen.core.state.embedded import EmbeddedState
from platen.core.state.interface import State
from platen.engines.protocol import (
    Capability,
    Capacity,
    Engine,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    FinishReason,
    GenerationRequest,
    RequestRefused,
    TokenEvent,
    Usage,
)
from platen.prompts.structured import Grammar
from platen.serve.access.layer import AccessControl
from platen.serve.api.oip.inference import OpenInference
from platen.serve.api.oip.rpc import RpcServer
from platen.serve.app import create_app
from platen.serve.config import ServeConfig
from platen.serve.context import ServeContext
from platen.serve.hub.admin import Loader, follow, restore
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.saved_routes import KeptChanges
from platen.serve.hub.served_model import AnyModel, ModelInfo, ServedModel
from platen.serve.server import Server, listen
from platen.tokens.tokenizer import Tokenizer
from platen.web.server_state import ServerState


class ScriptedEngine:
    """Says `pieces` one after another. It can be full, break after some pieces, or be slow."""

    name = "scripted"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces
        self.seconds_per_piece = 0.0
        self.full_for: float | None = None
        self.break_after: int | None = None
        self.requests: list[GenerationRequest] = []
        self.cancelled: set[str] = set()
        self.running: set[str] = set()
        self.closed = False
        self.failed = False

    async def submit_events(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        limit = request.sampling.max_tokens
        self.running.add(request.request_id)
        said = 0
        try:
            for number, piece in enumerate(self.pieces):
                await asyncio.sleep(self.seconds_per_piece)
                if number == self.break_after:
                    raise EngineFailed("it broke")
                if self.closed or request.request_id in self.cancelled:
                    yield self.last(request, said, "cancelled")
                    return
                if said == limit:
                    yield self.last(request, said, "length")
                    return
                said += 1
                yield TokenEvent((number,), piece)
            yield self.last(request, said, "stop")
        finally:
            self.running.discard(request.request_id)

    @staticmethod
    def last(request: GenerationRequest, said: int, reason: FinishReason) -> TokenEvent:
        return TokenEvent(finish_reason=reason, usage=Usage(len(request.prompt_ids), said))

    def prepare(self, grammar: Grammar) -> None:
        raise RequestRefused("this engine takes no grammars", param="grammar", code="invalid_grammar")

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        if self.failed:
            raise EngineFailed("it has broken down")
        if self.full_for is not None:
            raise EngineOverloaded(self.full_for)
        self.requests.append(request)
        return self.submit_events(request)

    def cancel(self, request_id: str) -> None:
        self.cancelled.add(request_id)

    def capacity(self) -> Capacity:
        return Capacity(128, 4, 4)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.running), 0, 0, failed=self.failed)

    async def close(self) -> None:
        self.closed = True


class RunningServer:
    """A server in a thread of this process."""

    def __init__(
        self,
        models: Sequence[AnyModel],
        config: ServeConfig,
        load: Loader | None = None,
        state: State | None = None,
        kept: KeptChanges | None = None,
    ) -> None:
        self.access = AccessControl(config, state)
        self.state = ServerState()
        self.engine = models[0].engine
        hub = ModelHub(models)
        context = ServeContext.of(hub, config, self.state, kept)
        if load is not None:
            asyncio.run(restore(hub, context.kept, load))
        app = create_app(context, config, access=self.access, load=load, max_body_bytes=100_000)
        ready = threading.Event()

        def on_ready(url: str) -> None:
            self.url = url
            ready.set()

        self._listener = listen(config.host, 0)
        self.rpc = None
        if config.grpc_port is not None:
            service = OpenInference(context)
            self.rpc = RpcServer(service, self.state, self.access, config.host, config.grpc_port)
        others = None
        if context.kept.shared and load is not None:
            others = partial(follow, hub, context.kept, load)
        self._server = Server(app, hub, self.state, config, on_ready, self.rpc, others)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        self._server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.access.close()


@contextmanager
def serving(
    engine: Engine,
    tokenizer: Tokenizer,
    config: ServeConfig | None = None,
    further: Sequence[AnyModel] = (),
    project_dir: Path | None = None,
) -> Iterator[RunningServer]:
    info = ModelInfo("tiny", engine.capacity().context_window, 12_345, "base", "f" * 16, 1_700_000_000)
    models = [ServedModel(engine, tokenizer, info), *further]
    config = config or ServeConfig(drain_seconds=1)
    state = None if project_dir is None else EmbeddedState(project_dir)
    server = RunningServer(models, config, state=state)
    try:
        yield server
    finally:
        server.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@contextmanager
def platen_serve(
    *arguments: str, cwd: Path | None = None, quiet: bool = True, command: str = "serve"
) -> Iterator[tuple[httpx.Client, str]]:
    """A client of the server that a command line of `platen serve`, or `command`, starts; and what it said.

    It has to end well, and to say no more if it is to be `quiet`.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "platen", command, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = server.stdout.readline()
            assert line, f"ended early: {said}"
            said += line
        url = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client, said
        server.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=100)
        assert server.returncode == 0, rest
        assert not (quiet and rest), rest
    finally:
        server.kill()
        server.wait()
