"""What keys, limits and patience cost a request: microseconds on one core, without a socket.

    python benchmarks/access.py [--quick] [--json FILE]

An ASGI application that answers at once is called directly, bare and behind each layer. `keys` checks a key
and counts requests a minute; `tokens` also sets tokens and budgets aside and settles them, as a request for a
text does, with 200 keys in use in turn. Each figure is the best of many short rounds. The bar is 100 µs more
than the bare application.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from _harness import Result, interleaved, options, report
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from platen.core.state.embedded import EmbeddedState
from platen.serve.access.caller import Caller
from platen.serve.access.keys import Grant, Limits
from platen.serve.access.keystore import KeyStore
from platen.serve.access.layer import Access, AccessControl
from platen.serve.config import PriceConfig, ServeConfig
from platen.web.timeouts import Patience

BAR = 100.0
KEYS = 200
Ask = Callable[[int], Awaitable[None]]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
    """As a text is answered: the most that it may take is set aside, and settled at the end."""
    caller: Caller = scope["state"]["caller"]
    await caller.admit("model", 250, 64)
    await answer(scope, receive, send)
    caller.settle(250, 60)


def asking(app: ASGIApp, keys: list[bytes]) -> Ask:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    async def ask(number: int) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        headers.append((b"authorization", b"Bearer " + keys[number % len(keys)]))
        path = "/v1/chat/completions"
        await app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)

    return ask


def microseconds(ask: Ask, requests: int) -> float:
    """Processor time of one request, with the loop going round between them."""

    async def work() -> float:
        await ask(0)
        began = time.process_time()
        for number in range(requests):
            await ask(number)
            await asyncio.sleep(0)
        return (time.process_time() - began) / requests * 1e6

    return uvloop.run(work())


def main() -> None:
    parser = options(__doc__ or "")
    given = parser.parse_args()
    requests = 1_000
    with tempfile.TemporaryDirectory() as folder:
        store = KeyStore(EmbeddedState(Path(folder)))
        limits = Limits(10**9, 10**9, 10**12, 10.0**9)
        keys = [
            store.create(Grant(f"key {i}", f"tenant {i}", limits=limits))[1].encode() for i in range(KEYS)
        ]
        config = ServeConfig(keys="required", prices={"*": PriceConfig(prompt=1, completion=2)})

        def layered(app: ASGIApp) -> ASGIApp:
            return Access(app, control=AccessControl(config, EmbeddedState(Path(folder))))

        seen = interleaved(
            {
                "bare": lambda: microseconds(asking(answer, keys), requests),
                "patience": lambda: microseconds(
                    asking(Patience(answer, request_seconds=600, idle_seconds=60), keys), requests
                ),
                "keys": lambda: microseconds(asking(layered(answer), keys), requests),
                "tokens": lambda: microseconds(asking(layered(admitted), keys), requests),
            },
            rounds=5 if given.quick else 20,
        )
    best = {name: min(times) for name, times in seen.items()}
    results = [
        Result(
            f"access {name}",
            best[name] - best["bare"],
            BAR,
            BAR / max(best[name] - best["bare"], 0.01),
            "µs a request",
            "bar",
        )
        for name in ("patience", "keys", "tokens")
    ]
    report(results, json_file=given.json, quick=given.quick)


if __name__ == "__main__":
    main()
