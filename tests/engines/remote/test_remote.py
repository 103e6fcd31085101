"""An engine elsewhere does what the protocol says, in front of a fake and of this package's own server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from platen.engines.protocol import (
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    RequestRefused,
    SamplingParams,
    TokenEvent,
    Usage,
)
from platen.engines.remote import events
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.engine import RemoteEngine
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import Tokenizer
from tests.engines.remote.fake_upstream import (
    STAMP,
    USAGE,
    Action,
    FakeUpstream,
    answer,
    error,
    fake_upstream,
    stream,
)
from tests.serve.running import ScriptedEngine, serving


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {**STAMP, "choices": [{"index": 0, "text": text, "finish_reason": reason}], "usage": None}


COUNTS = {**STAMP, "choices": [], "usage": USAGE}


@asynccontextmanager
async def remote(url: str, **settings: Any) -> AsyncIterator[RemoteEngine]:
    quick = {"model": "their-model", "retry_delay_seconds": 0, "max_retries": 0}
    config = UpstreamConfig(name="big", base_url=url, **(quick | settings))
    engine = RemoteEngine(config, context_window=128, vocab_size=320)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def faked(*script: Action, **settings: Any) -> AsyncIterator[tuple[RemoteEngine, FakeUpstream]]:
    with fake_upstream(*script) as fake:
        async with remote(fake.url, **settings) as engine:
            yield engine, fake


async def collect(engine: RemoteEngine, sampling: SamplingParams = SamplingParams()) -> list[TokenEvent]:
    return [event async for event in engine.submit(GenerationRequest("r", [1, 2, 3], sampling))]


async def test_text_comes_in_pieces_and_the_end_says_what_it_took() -> None:
    async with faked(stream(piece("Fi"), piece("ne"), piece("", "length"), COUNTS)) as (engine, fake):
        events = await collect(engine, SamplingParams(temperature=0, max_tokens=2, stop=("x",), seed=4))
        assert [event.text for event in events] == ["Fi", "ne", "", ""]
        assert (events[-1].finish_reason, events[-1].usage) == ("length", Usage(7, 3))
        assert engine.stats().running == 0
    (request,) = fake.requests
    assert request.path == "/v1/completions"
    assert request.body == {
        "model": "their-model",
        "prompt": [1, 2, 3],
        "max_tokens": 2,
        "stream": True,
        "temperature": 0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 4,
        "stop": ["x"],
        "stream_options": {"include_usage": True},
    }


async def test_the_rarer_parameters_go_along_when_they_are_on() -> None:
    grammars = (
        (Grammar("json_schema", '{"type": "object"}'), "json_schema"),
        (Grammar("regex", "a+"), "regex"),
        (Grammar("lark", "start: /a/"), "grammar"),
    )
    end = stream(piece("", "stop"))
    async with faked(end, end, end, stream_usage=False) as (engine, fake):
        for grammar, _ in grammars:
            sampling = SamplingParams(
                top_k=5, logit_bias=((7, -1.0),), seed=2**64 - 2, max_tokens=None, grammar=grammar
            )
            assert (await collect(engine, sampling))[-1].usage == Usage(3, 1)
    for (_, kind), request in zip(grammars, fake.requests, strict=True):
        assert request.body["response_format"]["type"] == kind
        assert (request.body["top_k"], request.body["logit_bias"]) == (5, {"7": -1.0})
        assert request.body["max_tokens"] == 125
        assert request.body["seed"] == -2
        assert not {"stream_options", "min_p", "stop"} & request.body.keys()


@pytest.mark.parametrize(
    "broken", [answer(500), error(400, "no such parameter"), answer(200, {}), stream(piece("Fi"), done=False)]
)
async def test_failures_come_out_of_the_stream(broken: Action) -> None:
    async with faked(broken) as (engine, _):
        with pytest.raises(EngineFailed, match="upstream 'big'"):
            await collect(engine)
        assert engine.stats().running == 0


async def test_a_line_without_end_ends_the_stream_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINE_BYTES", 1000)
    async with faked() as (engine, fake), asyncio.timeout(10):
        fake.script.append(fake.stream_without_end(piece("Fi"), b"data: " + b"x" * 10_000))
        with pytest.raises(EngineFailed, match="a line of more than 1,000 bytes"):
            await collect(engine)
        assert engine.stats().running == 0


async def test_cancelling_ends_it_there_too() -> None:
    async with faked(max_concurrent=1) as (engine, fake):
        fake.script.append(fake.stream_without_end(piece("Fi")))
        events = engine.submit(GenerationRequest("r", [1]))
        assert (await anext(events)).text == "Fi"
        with pytest.raises(EngineOverloaded):
            engine.submit(GenerationRequest("s", [1]))
        engine.cancel("r")
        engine.cancel("unknown")
        assert (await anext(events)).finish_reason == "cancelled"
        assert await asyncio.to_thread(fake.hung_up.wait, 5)
        assert engine.stats().running == 0


async def test_what_it_cannot_do_is_refused_at_once() -> None:
    async with faked() as (engine, _):
        with pytest.raises(RequestRefused, match="context window is 128"):
            engine.submit(GenerationRequest("r", [1] * 128))
        with pytest.raises(RequestRefused, match="log-probabilities"):
            engine.submit(GenerationRequest("r", [1], SamplingParams(logprobs=0)))
        with pytest.raises(RequestRefused, match="adapters"):
            engine.submit(GenerationRequest("r", [1], adapter="poet"))
        assert engine.capacity().context_window == 128


async def test_in_front_of_our_own_server(tiny_tokenizer: Tokenizer) -> None:
    local = ScriptedEngine(["To ", "be ", "or ", "not"])
    with serving(local, tiny_tokenizer) as server:
        async with remote(f"{server.url}/v1", model="tiny") as engine:
            events = await collect(engine, SamplingParams(top_k=3, min_p=0.1, ignore_eos=True, max_tokens=3))
    assert "".join(event.text for event in events) == "To be or "
    assert (events[-1].finish_reason, events[-1].usage) == ("length", Usage(3, 3))
    assert (local.requests[0].prompt_ids, local.requests[0].sampling.min_p) == ([1, 2, 3], 0.1)
