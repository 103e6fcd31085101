"""Fuzz: any request over the whole surface, as the server's own description has it, and none may break it.

    python benchmarks/fuzz.py [--requests 100000] [--seconds 300] [--quick] [--seed 0] [--json FILE]

The application runs in this process over a tiny random model in PyTorch, 16 at once and 16 in its queue.
Hypothesis makes requests from /openapi.json: every path, right and wrong methods, bodies after the schemas
with fields left out, swapped and made up, bodies that are no JSON, odd headers, clients who hang up early.
Thirty-two are under way at once. It fails on an answer of 500 or above, an error that is no error object, an
answer that breaks off, an exception out of the application, and a request that takes over 20 seconds. Failing
requests are written to fuzz-failures.json.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from _harness import Result, options, report
from _served import TINY, make_bundle
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message

from platen.engines.local import open_model
from platen.projectserving import ServeConfig
from platen.serve.app import create_app
from platen.serve.hub import ModelHub
from platen.serve.opening import served_model

AT_ONCE, HANG_SECONDS, CHUNK = 32, 20.0, 1000


@dataclass(frozen=True)
class Shot:
    """One request; its client hangs up when `stay` messages have come back, if that is not None."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    stay: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "body": base64.b64encode(self.body).decode()}


# -- requests from the server's description -------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # half surrogate pairs too
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("fuzz"),
    "max_tokens": st.integers(0, 8),
    "max_completion_tokens": st.integers(1, 8),
    "n": st.integers(1, 3),
    "prompt": st.sampled_from(["to be", "", [1, 2, 3], ["a", "b"], [[5], [6, 7]]]),
    "stream": st.booleans(),
    "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
    "content": st.sampled_from(["to be", "or not", "", "🙂"]),
    "stop": st.none() | st.sampled_from(["a", ["e", "x"], "\n"]),
    "logit_bias": st.dictionaries(st.integers(0, 511).map(str), st.floats(-100, 100), max_size=3),
    "response_format": st.sampled_from(
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "regex", "pattern": "[ab]{1,4}"},
            {"type": "regex", "pattern": "("},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
        ]
    ),
}
"""Fields whose right values a schema does not tell; most requests would be refused for them alone."""
REQUIRED_OFTEN = ("model", "max_tokens", "max_completion_tokens")


def of_schema(schema: dict[str, Any], parts: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly fit a JSON schema."""
    if "$ref" in schema:
        return of_schema(parts[schema["$ref"].rpartition("/")[2]], parts, depth)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return st.one_of([of_schema(one, parts, depth) for one in schema[key]])
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(schema, parts, depth)
    if kind == "array":
        low = schema.get("minItems", 0)
        return st.lists(of_schema(schema.get("items", {}), parts, depth + 1), min_size=low, max_size=low + 2)
    if kind == "integer":
        low = schema.get("minimum", -2)
        return st.integers(low, max(low, min(schema.get("maximum", 40), low + 60)))
    if kind == "number":
        return st.floats(schema.get("minimum", -3), schema.get("maximum", 3), allow_nan=False)
    simple = {"string": texts, "boolean": st.booleans(), "null": st.none()}
    return simple.get(str(kind), anything)


def _object(schema: dict[str, Any], parts: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if depth > 3 or "properties" not in schema:
        return st.dictionaries(st.text(max_size=6), anything, max_size=3)
    fields = {
        name: LIKELY[name] if name in LIKELY else of_schema(one, parts, depth + 1)
        for name, one in schema["properties"].items()
    }
    needed = {*schema.get("required", ()), *(name for name in REQUIRED_OFTEN if name in fields)}
    others = sorted(set(fields) - needed)

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
        value = {name: draw(fields[name]) for name in [*sorted(needed), *chosen]}
        damage = draw(st.integers(0, 7))
        if damage == 0 and value:  # one request in four is damaged: a field missing, wrong or unknown
            value.pop(draw(st.sampled_from(sorted(value))))
        elif damage == 1:
            value[draw(st.sampled_from(sorted(fields)) | st.text(max_size=8))] = draw(anything)
        return value

    return build()


header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
odd_headers = st.dictionaries(
    st.sampled_from(
        ["accept", "accept-encoding", "content-encoding", "range", "expect", "authorization", "origin",
         "host", "x-request-id", "content-length", "if-none-match", "transfer-encoding", "cookie"]
    ),
    st.sampled_from(["application/json", "gzip", "bytes=9-0", "*", "Bearer x", "http://e"]) | header_values,
    max_size=2,
)  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def shots(description: dict[str, Any]) -> st.SearchStrategy[Shot]:
    """Requests over all that `description` (an OpenAPI document) has, and beside it."""
    parts = description.get("components", {}).get("schemas", {})
    calls: list[tuple[str, str, st.SearchStrategy[Any] | None]] = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            calls.append((method.upper(), path, of_schema(schema, parts) if schema is not None else None))
    calls.sort(key=lambda call: call[:2])
    with_body = [call for call in calls if call[2] is not None]
    paths = sorted({path for _, path, _ in calls} | {"/", "/static/app.js", "/static/../app.py", "/nothing"})

    @st.composite
    def shot(draw: st.DrawFn) -> Shot:
        kind = draw(st.integers(0, 9))
        if kind < 7:  # a call as described
            method, path, bodies = draw(st.sampled_from(with_body if kind < 6 and with_body else calls))
            body = b"" if bodies is None else _encoded(draw(bodies))
            headers = {"content-type": "application/json"} | (draw(odd_headers) if kind == 0 else {})
        else:  # any method, path and body
            method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from(paths))
            path += draw(st.sampled_from(["", "", "/", "/x", "%00", "//"]))
            body = draw(st.binary(max_size=60) | anything.map(_encoded))
            headers = {"content-type": draw(st.sampled_from(["application/json", "text/plain", "x"]))}
            headers |= draw(odd_headers)
        while "{" in path:
            before, _, rest = path.partition("{")
            filled = draw(st.sampled_from(["fuzz", "x"]) | texts)
            path = before + quote(filled, errors="replace") + rest.partition("}")[2]
        query = draw(st.sampled_from(["", "", "", "a=b", "%", "model=fuzz&stream=1"]))
        stay = draw(st.none() | st.none() | st.integers(0, 4))
        return Shot(method, path, query, tuple(sorted(headers.items())), body, stay)

    return shot()


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


# -- one request through the application ----------------------------------------------------------------


@dataclass
class Tally:
    """What came back, and what should not have."""

    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[tuple[Shot, str]] = field(default_factory=list)


async def fire(app: ASGIApp, shot: Shot, tally: Tally) -> None:
    began = time.perf_counter()
    client = _Client(shot)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            await app(client.scope(), client.receive, client.send)
        problem = client.problem()
    except TimeoutError:
        problem = f"no end after {HANG_SECONDS:.0f} s"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    tally.slowest = max(tally.slowest, time.perf_counter() - began)
    tally.statuses[str(client.status or "none")] += 1
    if problem:
        tally.failures.append((shot, problem))


class _Client:
    """The other end of an ASGI connection."""

    def __init__(self, shot: Shot) -> None:
        self._shot = shot
        self._sent = False
        self._gone = asyncio.Event()
        self._messages = 0
        self._ended = False
        self._content = b""
        self.status = 0
        self._type = ""

    def scope(self) -> dict[str, Any]:
        given = {"host": "127.0.0.1", "content-length": str(len(self._shot.body))} | dict(self._shot.headers)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._shot.method,
            "scheme": "http",
            "path": self._shot.path,
            "raw_path": self._shot.path.encode(),
            "query_string": self._shot.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }

    async def receive(self) -> Message:
        if self._shot.stay == 0:
            return {"type": "http.disconnect"}
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._shot.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self._messages += 1
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._type = dict(message["headers"]).get(b"content-type", b"").decode()
        else:
            self._content += message.get("body", b"")
            self._ended = not message.get("more_body", False)
        if self._ended or self._messages == self._shot.stay:
            self._gone.set()

    def problem(self) -> str | None:
        """What is wrong with the answer; nothing can be asked of one whose client has left."""
        if self.status >= 500:
            return f"{self.status}: {self._content[:300]!r}"
        if self._shot.stay is not None:
            return None
        if not self._ended:
            return "the answer broke off" if self.status else "no answer"
        last = b"event: response." if self._shot.path == "/v1/responses" else b"data: [DONE]"
        if self._type.startswith("text/event-stream") and last not in self._content[-4000:]:
            return f"a stream ended as {self._content[-300:]!r}"
        if self.status >= 400 and self._shot.method != "HEAD" and not self._is_error_object():
            return f"{self.status} without an error object: {self._content[:300]!r}"
        return None

    def _is_error_object(self) -> bool:
        """OpenAI's, or under /v2 the Open Inference Protocol's, which is a text."""
        try:
            error = json.loads(self._content)["error"]
            if self._shot.path.startswith("/v2") and isinstance(error, str):
                return bool(error)
            return bool(error["message"])
        except (ValueError, KeyError, TypeError):
            return False


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
    app: ASGIApp, strategy: st.SearchStrategy[Shot], requests: int, until: float, first: int
) -> Tally:
    tally = Tally()
    places = asyncio.Semaphore(AT_ONCE)

    async def placed(shot: Shot) -> None:
        async with places:
            await fire(app, shot, tally)

    for number in itertools.count(first):
        left = requests - tally.statuses.total()
        if left <= 0 or time.monotonic() > until:
            return tally
        await asyncio.gather(*map(placed, made(strategy, min(CHUNK, left), number)))
    raise AssertionError


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin nothing new after so long")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    requests = 2_000 if args.quick else args.requests
    with tempfile.TemporaryDirectory() as scratch:
        make_bundle(Path(scratch) / "bundle", TINY)
        model = open_model(Path(scratch) / "bundle", max_concurrent=16, max_queue=16)

        async def everything() -> Tally:
            hub = ModelHub([served_model(model, "fuzz", scratch)])
            app = create_app(hub, ServeConfig())
            try:
                until = time.monotonic() + args.seconds
                return await run(app, shots(app.openapi()), requests, until, args.seed * 1_000_000)
            finally:
                await hub.close()

        began = time.perf_counter()
        tally = asyncio.run(everything())
        seconds = time.perf_counter() - began
    total = tally.statuses.total()
    details = {"statuses": dict(tally.statuses), "slowest_s": tally.slowest, "failures": len(tally.failures)}
    result = Result(
        "fuzz", total / seconds, requests / seconds, total / requests, "requests/s", "asked", details
    )
    report([result], json_file=args.json, quick=args.quick)
    print(f"{total} requests in {seconds:.0f} s, the slowest {tally.slowest:.1f} s: {dict(tally.statuses)}")
    if tally.failures:
        rows = [{"problem": problem, **shot.to_json()} for shot, problem in tally.failures]
        Path("fuzz-failures.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        raise SystemExit(f"FAILED: {len(rows)}, the first: {rows[0]['problem']} of {rows[0]}")
    print("passed")


if __name__ == "__main__":
    main()
