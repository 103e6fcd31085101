"""The gateway as an ASGI layer: what callers are charged, what the guard sees, how streams are cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from platen.engines.protocol import Timings, Usage
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.upstream import Upstream
from platen.serve.gateway.layer import RELAYED, Gateway, Observer
from platen.serve.gateway.outgoing_request import OutgoingRequest
from platen.serve.gateway.relay import EventRelay
from platen.web.errors import ApiError
from tests.engines.remote.fake_upstream import (
    USAGE,
    USAGE_EVENT,
    Action,
    FakeUpstream,
    answer,
    chat,
    chat_event,
    chat_stream,
    fake_upstream,
    stream,
)

CHAT = {"model": "big", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = CHAT | {"stream": True}


@dataclass
class Ledger:
    """A caller with a limit, who remembers what was asked and charged."""

    limit: int = 10**9
    forbidden: tuple[str, ...] = ()
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def check_model(self, model: str) -> None:
        if model in self.forbidden:
            raise ApiError(403, "Not for you.", code="model_not_allowed")

    async def admit(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        self.calls.append(("admit", model, prompt_tokens, completion_tokens))
        if prompt_tokens + completion_tokens > self.limit:
            raise ApiError(429, "Over your limit.", code="tokens_limit", retry_after=3)

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.calls.append(("settle", prompt_tokens, completion_tokens))

    def withdraw(self) -> None:
        self.calls.append(("withdraw",))


@dataclass
class Client:
    """One request straight into the layer. `leave` makes the client hang up."""

    body: dict[str, Any]
    caller: Ledger | None = None
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Message] = field(default_factory=list)
    _read: bool = False

    async def receive(self) -> Message:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": json.dumps(self.body).encode()}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.first.set()

    async def ask(self, gateway: Gateway, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        state = {} if self.caller is None else {"caller": self.caller}
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "state": state}
        await gateway(scope, self.receive, self.send)
        return self.sent[0]["status"], b"".join(message.get("body", b"") for message in self.sent[1:])


async def local_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for the server's own routes: says what it was asked."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def against(
    *script: Action,
    guard: Callable[[str], str] = str,
    observer: Observer | None = None,
    **settings: Any,
) -> Callable[[Callable[[Gateway, FakeUpstream], Awaitable[None]]], None]:
    """Runs a coroutine function with a gateway to an upstream with this script."""

    def run(test: Callable[[Gateway, FakeUpstream], Awaitable[None]]) -> None:
        async def whole() -> None:
            with fake_upstream(*script) as fake:
                config = {"model": "their-model", "retry_delay_seconds": 0} | settings
                upstream = Upstream(UpstreamConfig(name="big", base_url=fake.url, **config))
                try:
                    gateway = Gateway(
                        local_app, upstreams=[upstream], guard=lambda *_: guard, observer=observer
                    )
                    await test(gateway, fake)
                finally:
                    await upstream.close()

        asyncio.run(whole())

    return run


# -- callers -------------------------------------------------------------------------------------------


def test_a_caller_is_charged_what_the_upstream_counts() -> None:
    embeddings = answer(200, {"object": "list", "data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}})
    responses = answer(200, {"object": "response", "usage": {"input_tokens": 4, "output_tokens": 2}})

    @against(chat("Fine"), chat_stream("Fi", "ne"), embeddings, responses)
    async def _(gateway: Gateway, _: FakeUpstream) -> None:
        for body, path, expected, charged in (
            (CHAT | {"max_tokens": 50, "n": 2}, "/v1/chat/completions", 100, (7, 3)),
            (STREAM | {"max_completion_tokens": 9}, "/v1/chat/completions", 9, (7, 3)),
            ({"model": "big", "input": "Hello"}, "/v1/embeddings", 0, (5, 0)),
            ({"model": "big", "input": "Hi", "max_output_tokens": 8}, "/v1/responses", 8, (4, 2)),
        ):
            caller = Ledger()
            status, _body = await Client(body, caller).ask(gateway, path)
            assert status == 200
            size = len(json.dumps(body))
            assert caller.calls == [("admit", "big", size // 4, expected), ("settle", *charged)]


def test_without_counts_they_are_estimated() -> None:
    events = [chat_event("a"), chat_event("b"), chat_event("c", "stop")]

    @against(stream(*events), stream_usage=False)
    async def _(gateway: Gateway, _: FakeUpstream) -> None:
        caller = Ledger()
        await Client(STREAM, caller).ask(gateway)
        assert caller.calls[1] == ("settle", len(json.dumps(STREAM)) // 4, 3)


def test_a_caller_over_the_limit_costs_nothing() -> None:
    @against()
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        caller = Ledger(limit=10)
        status, body = await Client(CHAT, caller).ask(gateway)
        assert (status, json.loads(body)["error"]["code"]) == (429, "tokens_limit")
        assert [call[0] for call in caller.calls] == ["admit"]
        assert fake.requests == []


def test_a_caller_may_be_kept_from_a_model() -> None:
    @against()
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        caller = Ledger(forbidden=("big",))
        status, body = await Client(CHAT, caller).ask(gateway)
        assert (status, json.loads(body)["error"]["code"]) == (403, "model_not_allowed")
        assert (caller.calls, fake.requests) == ([], [])


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def ended(self, model: str, reason: str, usage: Usage | None, timings: Timings | None) -> None:
        self.seen.append((model, reason, usage, timings is not None))

    def cancelled(self, model: str) -> None:
        self.seen.append((model, "cancelled"))


def test_whoever_measures_is_told_of_answers() -> None:
    notes, prompt = Notes(), len(json.dumps(STREAM)) // 4
    failed = {"error": {"message": "Out of memory."}}

    @against(
        chat("Fine"),
        chat_stream("Fine"),
        stream(chat_event("a"), done=False),
        stream(chat_event("a"), failed),
        stream({"type": "response.failed", "response": {"usage": USAGE}}),
        answer(200, failed | {"usage": USAGE}),
        answer(200, failed),
        answer(500),
        answer(422, {}),
        observer=notes,
        max_retries=0,
    )
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        for body in (CHAT, STREAM, STREAM, STREAM, STREAM, CHAT, CHAT, CHAT, CHAT):
            await Client(body).ask(gateway)
        fake.script.append(fake.silence())
        client = Client(CHAT)
        client.leave.set()
        with pytest.raises(IndexError):  # nothing was sent
            await client.ask(gateway)

    assert notes.seen == [
        ("big", "stop", Usage(7, 3), False),
        ("big", "stop", Usage(7, 3), True),
        ("big", "error", Usage(prompt, 1), False),
        ("big", "error", Usage(prompt, 2), False),
        ("big", "error", Usage(7, 3), False),
        ("big", "error", Usage(7, 3), False),
        ("big", "error", Usage(0, 0), False),
        ("big", "cancelled"),
    ]


def test_a_failure_is_settled_with_nothing() -> None:
    @against(answer(500), max_retries=0)
    async def _(gateway: Gateway, _: FakeUpstream) -> None:
        caller = Ledger()
        status, _body = await Client(CHAT, caller).ask(gateway)
        assert status == 502
        assert caller.calls[1:] == [("settle", 0, 0)]


def test_the_local_fallback_is_asked_when_what_was_set_aside_is_given_back() -> None:
    @against(answer(500), max_retries=0, fallbacks=("tiny",))
    async def _(gateway: Gateway, _: FakeUpstream) -> None:
        caller = Ledger()
        status, body = await Client(CHAT, caller).ask(gateway)
        assert (status, json.loads(body)) == (200, CHAT | {"model": "tiny"})
        assert caller.calls[1:] == [("withdraw",)]


def test_who_leaves_in_the_middle_is_charged_for_what_came() -> None:
    @against()
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        fake.script += [fake.stream_without_end(chat_event("a"), chat_event("b")), fake.silence()]
        prompt = len(json.dumps(STREAM)) // 4
        caller = Ledger()
        client = Client(STREAM, caller)
        asking = asyncio.create_task(client.ask(gateway))
        await client.first.wait()
        client.leave.set()
        await asking
        assert caller.calls[1:] == [("settle", prompt, 2)]
        assert await asyncio.to_thread(fake.hung_up.wait, 5)

        client = Client(STREAM, caller)
        client.leave.set()
        with pytest.raises(IndexError):  # nothing was sent
            await client.ask(gateway)
        assert caller.calls[3:] == [("settle", prompt, 0)]


# -- the outgoing guard --------------------------------------------------------------------------------


def no_numbers(text: str) -> str:
    """A guard: hides one number and refuses another."""
    if "666" in text:
        raise ApiError(400, "This must not leave.", code="refused_by_guard")
    return text.replace("12345", "[number]")


@pytest.mark.parametrize(
    ("path", "body", "left"),
    [
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "system", "content": "Be kind to 12345."},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "I am 12345"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,x12345"}},
                        ],
                    },
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "12345", "type": "function", "function": {"arguments": '{"a": "12345"}'}}
                        ],
                    },
                ]
            },
            ["kind to [number]", "am [number]", "base64,x12345", '"id":"12345"', '\\"a\\": \\"[number]\\"'],
        ),
        ("/v1/completions", {"prompt": "12345 is"}, ['"prompt":"[number] is"']),
        ("/v1/completions", {"prompt": ["12345", "b"], "suffix": "12345"}, ['["[number]","b"]', 'x":"[n']),
        ("/v1/embeddings", {"input": ["12345"]}, ['["[number]"]']),
        ("/v1/responses", {"input": "12345", "instructions": "12345"}, ['t":"[number]"', 's":"[number]"']),
    ],
)
def test_texts_leave_as_the_guard_lets_them(path: str, body: dict[str, Any], left: list[str]) -> None:
    @against(chat("Fine"), guard=no_numbers, redact=True)
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        await Client({"model": "big"} | body).ask(gateway, path)
        sent = json.dumps(fake.requests[0].body, separators=(",", ":"))
        for text in left:
            assert text in sent, sent


@pytest.mark.parametrize("key", ["prompt", "input"])
@pytest.mark.parametrize("ids", [[1, 2], [[1, 2]]])
def test_token_ids_cannot_be_looked_through(key: str, ids: Any) -> None:
    @against(guard=no_numbers, redact=True)
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        status, body = await Client({"model": "big", key: ids}).ask(gateway, "/v1/completions")
        assert (status, json.loads(body)["error"]["param"]) == (400, key)
        assert fake.requests == []


def test_the_guard_can_refuse_and_looks_only_where_it_is_wanted() -> None:
    evil = {"model": "big", "prompt": "666"}

    @against(guard=no_numbers, redact=True)
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        status, body = await Client(evil).ask(gateway, "/v1/completions")
        assert (status, json.loads(body)["error"]["code"]) == (400, "refused_by_guard")
        deep: Any = "x"
        for _ in range(800):
            deep = [deep]
        assert (await Client({"model": "big", "messages": deep}).ask(gateway))[0] == 400
        long = evil | {"prompt": "a" * 30_000 + "666"}
        assert (await Client(long).ask(gateway, "/v1/completions"))[0] == 400
        assert fake.requests == []

    @against(chat("Fine"), guard=no_numbers)
    async def _(gateway: Gateway, fake: FakeUpstream) -> None:
        assert (await Client(evil).ask(gateway, "/v1/completions"))[0] == 200
        assert fake.bodies("prompt") == ["666"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-9, 9) | st.text(max_size=9),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)
KEYS = ["messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens", "max_output_tokens"]


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from(sorted(RELAYED)))
def test_any_request_is_sent_or_refused(fields: dict[str, Any], path: str) -> None:
    config = UpstreamConfig(name="big", base_url="http://host/v1", model="their-model")
    request = OutgoingRequest.read(path, json.dumps({"model": "big"} | fields).encode())
    assert request is not None
    assert request.prompt_tokens > 0
    assert request.most_completion_tokens >= 0
    try:
        sent = json.loads(asyncio.run(request.body(config, str.upper)))
    except ApiError:
        assert isinstance(fields.get("prompt"), list) or isinstance(fields.get("input"), list)
        return
    assert sent.pop("model") == "their-model"
    assert set(sent) - {"stream_options"} == set(fields) - {"stream_options"}
    assert sent.get("n") == fields.get("n")


# -- streams -------------------------------------------------------------------------------------------


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


@given(st.lists(st.integers(1, 60), min_size=1), st.booleans())
def test_a_stream_may_be_cut_anywhere(sizes: list[int], hide_usage: bool) -> None:
    said = chat_event('Über "model":"their-model"\n')
    data = b": hello\n\nevent: x\n" + event(said) + event({"no": "model"}) + event(USAGE_EVENT)
    data += b"data: not JSON\n\ndata: [DONE]"
    expected = b": hello\n\nevent: x\n" + orjson_event(said | {"model": "big"}) + event({"no": "model"})
    expected += b"" if hide_usage else orjson_event(USAGE_EVENT | {"model": "big"})
    expected += b"data: not JSON\n\ndata: [DONE]"
    relay = EventRelay("big", hide_usage=hide_usage)
    out, at = b"", 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        piece = relay.push(data[at : at + size])
        assert not piece or piece.endswith(b"\n")
        out, at = out + piece, at + size
    assert not relay.complete
    assert out + relay.finish() == expected
    assert relay.complete
    assert (relay.usage, relay.events) == (Usage(7, 3), 3)


def orjson_event(document: dict[str, Any]) -> bytes:
    """As `event`, but other characters than ASCII are not escaped."""
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("last", "complete"),
    [
        ({"choices": [{"finish_reason": "stop"}]}, True),
        ({"choices": [{"finish_reason": None}]}, False),
        ({"type": "response.completed", "response": {}}, True),
        ({"type": "response.failed", "response": None}, True),
        ({"error": {"message": "no"}}, True),
        ({"choices": 7, "usage": 7, "response": 7}, False),
        ([1], False),
    ],
)
def test_when_a_stream_is_complete(last: object, complete: bool) -> None:
    relay = EventRelay("big", hide_usage=True)
    assert relay.push(event(last)) == event(last)
    assert relay.complete is complete


def test_usage_with_the_last_text_is_passed_on() -> None:
    relay = EventRelay("big", hide_usage=True)
    last = {"choices": [{"finish_reason": "stop"}], "usage": USAGE}
    assert relay.push(event(last)) == event(last)
    assert relay.usage == Usage(7, 3)
