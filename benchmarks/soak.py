"""Soak: a server at twice its capacity, a fifth of its clients vanishing mid-stream, for minutes on end.

    python benchmarks/soak.py [--minutes 10] [--quick] [--engine torch|openvino|llamacpp] [--json FILE]

A server of a small random model (8 at once, 16 in its queue, so 24 places) has 48 users who ask without
pause, but for half a second after a refusal: made-up prompts of 20 to 400 tokens, half of them with a
beginning that others share, 8 to 64 new ones. One request in five is given up by its client, at a random
moment of its wait or stream. Beside them a client goes round all other routes (benchmarks/_other_routes.py):
chat, responses, embeddings, tokens, the Open Inference Protocol, gRPC, metrics, and changing what answers. It
passes when

  every request is answered whole, refused (429, 503) or given up by the client itself,
  resident memory at the end is within 5% of what it was after the first minute (not judged with --quick), and
  no block, row or place of the key/value cache is held once all is quiet.

The last line says `passed` or `FAILED` and why; the JSON has the same under `passed` and `failures`.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import psutil
from _harness import Result, options, report
from _other_routes import EMBEDDING_MODEL, TEXT_MODEL, OtherRoutes
from _served import SMALL, make_bundle

from platen.compress.compile import compile_bundle
from platen.engines.threads import prepare_process
from platen.loadtest.load_prompts import Ask, Lengths, Synthetic
from platen.loadtest.records import Record
from platen.loadtest.target import Target, send

AT_ONCE, QUEUE = 8, 16
USERS = 2 * (AT_ONCE + QUEUE)
VANISHING = 0.2
ANSWERED, REFUSED, VANISHED = "ok", ("429", "503"), "vanished"
MEMORY_SHARE = 0.05


# -- the server, in a process of its own ---------------------------------------------------------------


def serve(folder: str, bundle: str, pipe: Connection) -> None:
    """Serve `folder`, and `bundle` for embeddings, until the pipe closes.

    Tells its addresses, then answers what comes through the pipe with the engine's figures.
    """
    prepare_process()
    from platen.engines.local import open_model
    from platen.engines.options import EngineOptions
    from platen.serve.access.layer import AccessControl
    from platen.serve.api.oip.inference import OpenInference
    from platen.serve.api.oip.rpc import RpcServer
    from platen.serve.app import create_app
    from platen.serve.config import ServeConfig
    from platen.serve.context import ServeContext, ServerState
    from platen.serve.hub.loading import open_any, served_model
    from platen.serve.hub.model_hub import ModelHub
    from platen.serve.server import Server, listen

    config = ServeConfig(port=0, max_concurrent=AT_ONCE, max_queue=QUEUE)
    model = open_model(
        folder, EngineOptions(max_concurrent=AT_ONCE, max_queue=QUEUE, kv_cache_bytes=64 * 2**20)
    )
    embedder, _ = open_any(bundle, EMBEDDING_MODEL, config, kind="embedding")
    hub, state = ModelHub([served_model(model, TEXT_MODEL, folder), embedder]), ServerState()
    context, access = ServeContext.of(hub, config, state), AccessControl(config)
    app = create_app(context, config, access=access, load=lambda ref, name: open_any(ref, name, config)[0])
    rpc = RpcServer(OpenInference(context), state, access, config.host, 0)

    def ready(url: str) -> None:
        pipe.send((url, rpc.address))

    server = Server(app, hub, state, config, ready, rpc)

    def answer() -> None:
        try:
            while True:
                pipe.recv()
                pipe.send(model.engine.stats())
        except EOFError:
            server.stop()

    with listen("127.0.0.1", 0) as listener:
        threading.Thread(target=answer, daemon=True).start()
        server.run(sockets=[listener])
    asyncio.run(hub.close())


# -- the clients ---------------------------------------------------------------------------------------


@dataclass
class Soak:
    """What has happened so far; memory as (seconds, bytes)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    """Answers of each other route."""
    details: dict[str, str] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    tokens: int = 0


async def user(number: int, client: httpx.AsyncClient, target: Target, until: float, soak: Soak) -> None:
    dice = random.Random(number)
    prompts = Synthetic(Lengths(20, 400), Lengths(8, 64), words_per_token=0.4)
    common = prompts.text(100, random.Random(0))
    asks = prompts.asks(seed=number)
    while time.monotonic() < until:
        ask = next(asks)
        if dice.random() < 0.5:
            ask = Ask(f"{common} {ask.prompt}", ask.max_tokens)
        record = Record(0.0)
        work = asyncio.create_task(send(client, target, ask, record, time.monotonic))
        if dice.random() < VANISHING:
            await _vanish(work, record, pieces=dice.randrange(ask.max_tokens), seconds=dice.uniform(0, 2))
        await asyncio.wait({work})
        soak.outcomes[VANISHED if work.cancelled() else record.outcome] += 1
        soak.tokens += record.output_tokens
        if record.detail:
            soak.details[record.outcome] = record.detail
        if record.outcome in REFUSED:
            await asyncio.sleep(0.5)


async def _vanish(work: asyncio.Task[None], record: Record, pieces: int, seconds: float) -> None:
    """Hang up when so many pieces have come, or so much time has gone."""
    deadline = time.monotonic() + seconds
    while not work.done() and len(record.pieces) < pieces and time.monotonic() < deadline:
        await asyncio.sleep(0.002)
    work.cancel()


async def watch_memory(process: psutil.Process, soak: Soak) -> None:
    began = time.monotonic()
    while True:
        soak.memory.append((time.monotonic() - began, process.memory_info().rss))
        await asyncio.sleep(1)


async def visit(others: OtherRoutes, until: float, soak: Soak) -> None:
    """Go round the other routes, a request after another."""
    for number in itertools.count():
        for route in others.routes:
            if time.monotonic() > until:
                return
            status = await route(number)
            outcome = ANSWERED if status == "200" else status
            if outcome not in (ANSWERED, *REFUSED):
                outcome = f"{route.__name__} {status}"
            soak.outcomes[outcome] += 1
            soak.others[route.__name__] += outcome == ANSWERED
            await asyncio.sleep(0.1)


async def run(url: str, rpc_address: str, process: psutil.Process, seconds: float) -> Soak:
    soak = Soak()
    target = Target(url, TEXT_MODEL, timeout=60, ignore_eos=True)
    until = time.monotonic() + seconds
    async with target.client() as client:
        watcher = asyncio.create_task(watch_memory(process, soak))
        async with OtherRoutes.open(url, rpc_address) as others:
            users = [user(number, client, target, until, soak) for number in range(USERS)]
            await asyncio.gather(visit(others, until, soak), *users)
        watcher.cancel()
    return soak


# -- the verdict ---------------------------------------------------------------------------------------


def memory_growth(memory: list[tuple[float, int]], warm: float) -> tuple[float, float]:
    """Resident bytes about `warm` seconds in and at the end: medians of ten samples each."""
    after = [size for at, size in memory if at >= warm]
    return statistics.median(after[:10]), statistics.median(after[-10:])


def held_in_the_end(pipe: Connection) -> dict[str, float]:
    """What of the cache is held once nothing runs."""
    deadline = time.monotonic() + 30
    while True:
        pipe.send("stats")
        stats = pipe.recv()
        if stats.running == stats.waiting == 0 or time.monotonic() > deadline:
            held = {name: value for name, value in stats.extra.items() if name.endswith("_held")}
            return held | {"running": stats.running, "waiting": stats.waiting}
        time.sleep(0.1)


def soaked(folder: Path, bundle: Path, seconds: float) -> tuple[Soak, dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(str(folder), str(bundle), theirs))
    server.start()
    theirs.close()
    try:
        soak = asyncio.run(run(*ours.recv(), psutil.Process(server.pid), seconds))
        return soak, held_in_the_end(ours)
    finally:
        ours.close()
        server.join(40)
        if server.is_alive():
            server.kill()


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--engine", choices=("torch", "openvino", "llamacpp"), default="torch")
    args = parser.parse_args()
    prepare_process()
    seconds = 30.0 if args.quick else args.minutes * 60
    warm = min(60.0, seconds / 2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = bundle = Path(scratch) / "bundle"
        make_bundle(bundle, SMALL)
        if args.engine != "torch":
            compiled = Path(scratch) / "compiled"
            compile_bundle(folder, compiled, "gguf" if args.engine == "llamacpp" else args.engine)
            folder = compiled
        soak, held = soaked(folder, bundle, seconds)
    before, after = memory_growth(soak.memory, warm)
    failures = complaints(soak, held, after / before - 1, judge_memory=not args.quick)
    details = {
        "passed": not failures,
        "failures": failures,
        "outcomes": dict(soak.outcomes),
        "answered_by_other_routes": dict(soak.others),
        "new_tokens": soak.tokens,
        "held": held,
        "errors": soak.details,
        "memory_mib_every_half_minute": [round(size / 2**20, 1) for _, size in soak.memory[::30]],
    }
    name = f"soak_{args.engine}_memory"
    result = Result(name, after / 2**20, before / 2**20, after / before, "MiB", "after warm-up", details)
    report([result], json_file=args.json, quick=args.quick)
    print(
        f"{soak.outcomes.total()} requests in {seconds:.0f} s: {dict(soak.outcomes)}; held at the end: {held}"
    )
    print(
        f"memory {before / 2**20:.0f} MiB after {warm:.0f} s, {after / 2**20:.0f} MiB at the end: "
        f"{after / before - 1:+.1%} (at most {MEMORY_SHARE:+.0%}{'; not judged' if args.quick else ''})"
    )
    if failures:
        raise SystemExit("FAILED: " + "; ".join(failures))
    print("passed")


def complaints(soak: Soak, held: dict[str, float], growth: float, *, judge_memory: bool) -> list[str]:
    """What was not as it should be."""
    known = (ANSWERED, *REFUSED, VANISHED)
    found = [
        f"{count} requests ended as {name}: {soak.details.get(name, '')}"
        for name, count in soak.outcomes.items()
        if name not in known
    ]
    if not soak.outcomes[ANSWERED]:
        found.append("nothing was answered")
    if judge_memory and growth > MEMORY_SHARE:
        found.append(f"memory grew by {growth:.1%}")
    return found + [f"{name} is {value:g} at the end" for name, value in held.items() if value]


if __name__ == "__main__":
    main()
