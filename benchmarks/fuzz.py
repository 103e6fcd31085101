"""Fuzz: any request over the whole surface, as the server's own description has it, and none may break it.

    python benchmarks/fuzz.py [--requests 100000] [--seconds 300] [--quick] [--seed 0] [--json FILE]

The application runs in this process, with keys, over a tiny random model in PyTorch, 16 at once and 16 in its
queue, a tiny embedding model, and an upstream that answers at once. Hypothesis makes requests from
/openapi.json (benchmarks/_shots.py): every path, the changing of models too, and calls over gRPC. Every other
thousand goes through guards. Thirty-two are under way at once. It fails on an answer of 500 or above other
than a 503 with Retry-After, a gRPC call ending as INTERNAL or UNKNOWN, an error that is no error object, an
answer that breaks off, an exception out of the application, and a request that takes over 20 seconds. Failing
requests are written to fuzz-failures.json. The last line says `passed` or `FAILED`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from _asgi_client import Client
from _harness import Result, options, report
from _served import TINY, make_bundle
from _shots import EMBEDDING_MODEL, TEXT_MODEL, UPSTREAM, Shot, shots
from gateway import mock_upstream
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from platen.core.errors import BundleError
from platen.core.state.embedded import EmbeddedState
from platen.engines.remote.config import UpstreamConfig
from platen.serve.access.keys import Grant, Scope
from platen.serve.access.keystore import KeyStore
from platen.serve.access.layer import AccessControl
from platen.serve.api.oip.inference import OpenInference
from platen.serve.api.oip.messages import SERVICE
from platen.serve.api.oip.rpc import RpcServer
from platen.serve.app import create_app
from platen.serve.config import ServeConfig
from platen.serve.context import ServeContext, ServerState
from platen.serve.guards.config import GuardsConfig
from platen.serve.hub.loading import open_any
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.routing import Route
from platen.serve.hub.served_model import AnyModel, ServedModel

AT_ONCE, HANG_SECONDS, CHUNK = 32, 20.0, 1000
GUARDS = GuardsConfig.model_validate(
    {
        "injection": {"input": "refuse"},
        "secrets": {"input": "mask", "output": "mask"},
        "canary": {"output": "refuse"},
    }
)


# -- the server -----------------------------------------------------------------------------------------


class Served:
    """Two applications over the same models, one with guards, and gRPC beside them."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        config = ServeConfig(
            keys="optional",
            max_concurrent=16,
            max_queue=16,
            upstreams=(UpstreamConfig(name=UPSTREAM, base_url=f"http://127.0.0.1:{upstream_port}/v1"),),
        )
        grant = Grant("fuzz", "fuzz", scopes=frozenset(Scope))
        _, self.key = KeyStore(EmbeddedState(folder)).create(grant)
        self._models = [
            open_any(folder / "bundle", TEXT_MODEL, config)[0],
            open_any(folder / "bundle", EMBEDDING_MODEL, config, kind="embedding")[0],
        ]
        self.hub = ModelHub(self._models)
        for model in self._models:
            self.hub.hold(model.engine)  # whatever is removed, the engines go on
        state = ServerState()
        self._access = AccessControl(config, EmbeddedState(folder))
        guarded = config.model_copy(update={"guards": GUARDS})
        contexts = [ServeContext.of(self.hub, one, state) for one in (config, guarded)]
        self.apps = [
            create_app(context, one, access=self._access, load=self._load)
            for one, context in zip((config, guarded), contexts, strict=True)
        ]
        self._rpc = RpcServer(OpenInference(contexts[1]), state, self._access, "127.0.0.1", 0)

    def _load(self, reference: str, name: str) -> AnyModel:
        """A further name for the text model: what is fuzzed is the changing, not the opening of folders."""
        text = self._models[0]
        assert isinstance(text, ServedModel)
        if reference != TEXT_MODEL:
            raise BundleError(f"there is no bundle at {reference}")
        return replace(text, info=replace(text.info, name=name), source=reference)

    def restore(self) -> None:
        """Let the names lead where they did at the start."""
        first = {model.info.name: model for model in self._models}
        for route in self.hub.routes():
            if route.name not in first:
                self.hub.remove(route.name)
        for model in first.values():
            self.hub.set_route(Route.to(model))

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """To the gRPC server, while it runs."""
        await self._rpc.start()
        try:
            async with grpc.aio.insecure_channel(self._rpc.address) as channel:
                yield channel
        finally:
            await self._rpc.stop()

    async def close(self) -> None:
        await self.hub.close()
        self._access.close()


# -- one request through the server ----------------------------------------------------------------


@dataclass
class Tally:
    """What came back, and what should not have."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Successes of each method and route."""
    slowest: float = 0.0
    failures: list[tuple[Shot, str]] = field(default_factory=list)


async def fire(app: ASGIApp, channel: grpc.aio.Channel, shot: Shot, tally: Tally) -> None:
    began = time.perf_counter()
    status, problem = "none", None
    try:
        async with asyncio.timeout(HANG_SECONDS):
            if shot.method == "GRPC":
                status, problem = await _call(channel, shot)
            else:
                client = Client(shot)
                await app(client.scope(), client.receive, client.send)
                status, problem = str(client.status or "none"), client.problem()
    except TimeoutError:
        problem = f"no end after {HANG_SECONDS:.0f} s"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    tally.slowest = max(tally.slowest, time.perf_counter() - began)
    tally.statuses[status] += 1
    if status in ("200", "grpc OK"):
        tally.answered[f"{shot.method} {shot.place}"] += 1
    if problem:
        tally.failures.append((shot, problem))


async def _call(channel: grpc.aio.Channel, shot: Shot) -> tuple[str, str | None]:
    """How a gRPC call ended, and what is wrong with that. One whose client leaves is cancelled under way."""
    call = channel.unary_unary(f"/{SERVICE}/{shot.path}")(shot.body)
    if shot.stay is not None:
        await asyncio.sleep(0.001)
        call.cancel()
    code = await call.code()
    bad = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return f"grpc {code.name}", f"{code.name}: {await call.details()}" if bad else None


# -- the run --------------------------------------------------------------------------------------------


def made(strategy: st.SearchStrategy[Shot], count: int, number: int) -> list[Shot]:
    """`count` requests, others for each `number`."""
    found: list[Shot] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(shot: Shot) -> None:
        found.append(shot)

    collect()
    return found


async def run(
    served: Served, strategy: st.SearchStrategy[Shot], requests: int, until: float, first: int
) -> Tally:
    tally = Tally()
    places = asyncio.Semaphore(AT_ONCE)

    async def placed(app: ASGIApp, shot: Shot) -> None:
        async with places:
            await fire(app, channel, shot, tally)
            if shot.path.startswith("/admin"):
                served.restore()

    async with served.channel() as channel:
        for number in itertools.count(first):
            left = requests - tally.statuses.total()
            if left <= 0 or time.monotonic() > until:
                break
            app = served.apps[number % 2]
            await asyncio.gather(*(placed(app, shot) for shot in made(strategy, min(CHUNK, left), number)))
    return tally


def fuzzed(requests: int, seconds: float, number: int) -> Tally:
    """Make a server and send it so many requests, none after `seconds`."""

    async def everything(served: Served) -> Tally:
        strategy = shots(served.apps[0].openapi(), served.key)
        try:
            return await run(served, strategy, requests, time.monotonic() + seconds, number * 1_000_000)
        finally:
            await served.close()

    with tempfile.TemporaryDirectory() as scratch, mock_upstream() as port:
        make_bundle(Path(scratch) / "bundle", TINY)
        return asyncio.run(everything(Served(Path(scratch), port)))


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing new after so long")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    requests = 2_000 if args.quick else args.requests
    logging.getLogger("platen").setLevel(logging.ERROR)  # findings and failed shadows are no news here
    began = time.perf_counter()
    tally = fuzzed(requests, args.seconds, args.seed)
    seconds = time.perf_counter() - began
    total = tally.statuses.total()
    passed = not tally.failures and total >= requests
    details = {
        "passed": passed,
        "statuses": dict(tally.statuses),
        "answered": dict(tally.answered),
        "slowest_s": tally.slowest,
        "failures": len(tally.failures),
    }
    result = Result(
        "fuzz", total / seconds, requests / seconds, total / requests, "requests/s", "asked", details
    )
    report([result], json_file=args.json, quick=args.quick)
    print(f"{total} requests in {seconds:.0f} s, the slowest {tally.slowest:.1f} s: {dict(tally.statuses)}")
    print(f"{len(tally.answered)} routes answered, the rarest {tally.answered.most_common()[-1:]}")
    if tally.failures:
        rows = [{"problem": problem, **shot.to_json()} for shot, problem in tally.failures]
        Path("fuzz-failures.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        raise SystemExit(f"FAILED: {len(rows)}, the first: {rows[0]['problem']} of {rows[0]}")
    if total < requests:
        raise SystemExit(
            f"FAILED: only {total} of {requests} requests were sent in --seconds {args.seconds:g}"
        )
    print(f"passed: {total} requests, none broke anything")


if __name__ == "__main__":
    main()
