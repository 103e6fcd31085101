"""Traffic against a server whose answers are known: what is sent, when, and what is noted of it."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from platen.loadtest.load import Load, Run, arrivals, run_load
from platen.loadtest.load_prompts import Ask, Lengths, Listed, Synthetic
from platen.loadtest.records import Record, summarize
from platen.loadtest.target import Target, calibrate, open_target, send
from tests.loadtest.scripted import DONE, Script, piece, scripted, usage

ASK = Listed((Ask("to be or not", 3),))


def test_arrivals_are_a_poisson_process_within_their_bounds() -> None:
    """Gaps with mean 1/rate and, as exponential ones, a deviation as large as their mean."""
    times = list(arrivals(Load(rate=50, requests=20_000, seconds=1e9, seed=3)))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(0.02, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)
    assert len(times) == 20_000
    assert max(arrivals(Load(rate=50, requests=20_000, seconds=10, seed=3))) <= 10


async def run(script: Script, load: Load, **options: Any) -> Run:
    target = Target(script.url, "m", **options)
    async with target.client() as client:
        return await run_load(client, target, ASK, load)


async def test_every_request_of_an_open_loop_is_sent_and_noted() -> None:
    async with scripted(Script()) as script:
        found = await run(script, Load(rate=500, requests=20))
    assert [record.outcome for record in found.records] == ["ok"] * 20
    assert all(record.prompt_tokens == 4 and record.output_tokens == 3 for record in found.records)
    assert all(r.scheduled <= r.sent <= r.pieces[0] <= r.ended for r in found.records)
    assert script.seen[0] == {
        "model": "m",
        "prompt": "to be or not",
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    """No answer comes before all five requests are there: a closed loop would hang."""
    script = Script()
    all_there = asyncio.Event()

    async def together(body: dict[str, Any]) -> AsyncIterator[bytes]:
        if len(script.seen) == 5:
            all_there.set()
        await all_there.wait()
        yield piece(index=0, text="a")
        yield DONE

    script.stream = together
    async with scripted(script):
        found = await run(script, Load(rate=200, requests=5))
    assert summarize(found.records).outcomes == {"ok": 5}
    assert script.most_at_once == 5


async def test_a_closed_loop_has_its_number_of_users_and_no_more() -> None:
    async with scripted(Script()) as script:
        found = await run(script, Load(users=3, requests=12))
    assert summarize(found.records).outcomes == {"ok": 12}
    assert script.most_at_once <= 3


async def test_refusals_and_failures_are_counted_by_kind() -> None:
    async def broken(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, text="a")
        if len(script.seen) == 3:
            yield b'data: {"error": {"message": "it broke"}}\n\n'
        if len(script.seen) == 5:
            await asyncio.Event().wait()

    script = Script(broken, refuse=lambda number: {1: 429, 2: 503}.get(number))
    async with scripted(script):
        found = await run(script, Load(users=1, requests=5), timeout=0.5)
    assert [(r.outcome, r.detail) for r in found.records] == [
        ("429", "no"),
        ("503", "no"),
        ("broken stream", "it broke"),
        ("broken stream", "it ended without [DONE]"),
        ("timeout", ""),
    ]
    script.url = script.url.rpartition(":")[0] + ":1"
    assert {r.outcome for r in (await run(script, Load(users=1, requests=1))).records} == {"connection"}


async def test_stopped_early_a_run_keeps_what_was_measured() -> None:
    async def second_hangs(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, text="a")
        if len(script.seen) > 1:
            hanging.set()
            await asyncio.Event().wait()
        yield DONE

    hanging, script = asyncio.Event(), Script(second_hangs)
    async with scripted(script):
        task = asyncio.create_task(run(script, Load(users=1, requests=10)))
        await hanging.wait()
        task.cancel()
        found = await task
    assert found.interrupted
    assert [record.outcome for record in found.records] == ["ok", "unfinished"]


async def test_the_role_that_opens_a_chat_is_no_token_and_unicode_lines_are_no_ends() -> None:
    async def chat(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, delta={"role": "assistant", "content": ""})
        await asyncio.sleep(0.02)
        yield b'data: {"choices": [{"delta": {"content": "a\xe2\x80\xa8b\xc2\x85c"}}]}\n\n'
        yield usage(7, 1) + DONE

    async with scripted(Script(chat)) as script:
        target = Target(script.url, "m", "chat")
        record = Record(0.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with target.client() as client:
            await send(client, target, Ask("hello", 5), record, lambda: loop.time() - began)
    assert (record.outcome, len(record.pieces), record.prompt_tokens) == ("ok", 1, 7)
    assert record.ttft >= 0.02
    assert script.seen[0]["messages"] == [{"role": "user", "content": "hello"}]


async def test_made_up_prompts_get_the_wanted_number_of_the_servers_tokens() -> None:
    """This server's tokenizer makes three tokens of a word and one for the beginning."""

    async def counts(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield piece(index=0, text="a")
        yield usage(1 + 3 * len(body["prompt"].split()), 1) + DONE

    async with scripted(Script(counts)) as script, Target(script.url).client() as client:
        target = await open_target(client, Target(script.url))
        prompts = await calibrate(client, target, Synthetic(Lengths(90, 120), Lengths(1, 1)))
    assert target.model == "m"
    asks = prompts.asks(seed=1)
    words = [len(str(next(asks).prompt).split()) for _ in range(200)]
    assert 28 <= min(words) <= 32
    assert 38 <= max(words) <= 41
