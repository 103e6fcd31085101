"""The client of an upstream: what it sends, when it asks again, and when it leaves a service alone."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from platen.core.errors import ConfigError
from platen.engines.remote.breaker import Breaker
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.retries import LONGEST_RETRY_AFTER, retry_after_seconds, wait_before_retry
from platen.engines.remote.upstream import Upstream, UpstreamError
from tests.engines.remote.fake_upstream import answer, chat_event, drop, fake_upstream, raw, stream

FINE = answer(200, {"said": "fine"})
BROKEN = answer(503, {})


class Waits(list[float]):
    """Stands in for sleeping: notes how long."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@asynccontextmanager
async def client(url: str, waits: Waits | None = None, **settings: Any) -> AsyncIterator[Upstream]:
    config = UpstreamConfig(name="theirs", base_url=url, **settings)
    upstream = Upstream(config, sleep=waits if waits is not None else Waits())
    try:
        yield upstream
    finally:
        await upstream.close()


async def ask(upstream: Upstream) -> dict[str, Any]:
    """The whole answer's document."""
    found = await upstream.post("/chat/completions", b'{"q": 1}')
    found.close()
    return dict(json.loads(found.body), status=found.status)


async def refusal(upstream: Upstream) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream)
    return caught.value


async def test_one_connection_carries_request_after_request() -> None:
    with fake_upstream(FINE, FINE, FINE) as fake:
        async with client(fake.url) as upstream:
            assert [await ask(upstream) for _ in range(3)] == [{"said": "fine", "status": 200}] * 3
    assert fake.connections == 1
    request = fake.requests[0]
    assert (request.path, request.body) == ("/v1/chat/completions", {"q": 1})
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-very-secret\n")
    with fake_upstream(FINE) as fake:
        async with client(fake.url, api_key_env="THEIR_KEY") as upstream:
            await ask(upstream)
            assert upstream.without_key(b"bad key sk-very-secret!") == b"bad key ***!"
    assert fake.requests[0].headers["authorization"] == "Bearer sk-very-secret"


@pytest.mark.parametrize("value", [None, "", " ", "sk-\nhost: elsewhere", "schlüssel"])
def test_a_key_that_is_none_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("THEIR_KEY", value)
    config = UpstreamConfig(name="theirs", base_url="http://127.0.0.1:9/v1", api_key_env="THEIR_KEY")
    with pytest.raises(ConfigError, match="THEIR_KEY") as caught:
        Upstream(config)
    assert not value or not value.strip() or value not in str(caught.value)


# -- asking again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_waited_out(status: int) -> None:
    waits = Waits()
    with fake_upstream(answer(status), answer(status), FINE) as fake:
        async with client(fake.url, waits, retry_delay_seconds=0.4) as upstream:
            assert (await ask(upstream))["said"] == "fine"
    assert len(fake.requests) == 3
    assert 0.2 <= waits[0] <= 0.4 <= waits[1] <= 0.8


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_refusal_of_the_request_is_an_answer(status: int) -> None:
    with fake_upstream(answer(status, {"error": {"message": "no"}})) as fake:
        async with client(fake.url) as upstream:
            assert await ask(upstream) == {"status": status, "error": {"message": "no"}}
    assert len(fake.requests) == 1


@pytest.mark.parametrize(("status", "told"), [(429, 429), (503, 502), (500, 502), (408, 502)])
async def test_retries_come_to_an_end(status: int, told: int) -> None:
    waits = Waits()
    with fake_upstream(*[answer(status)] * 4) as fake:
        async with client(fake.url, waits, max_retries=3) as upstream:
            assert (await refusal(upstream)).status == told
    assert (len(fake.requests), len(waits)) == (4, 3)


async def test_retry_after_is_honoured_unless_it_is_long() -> None:
    waits = Waits()
    with fake_upstream(answer(429, retry_after="7"), FINE, answer(429, retry_after="3600")) as fake:
        async with client(fake.url, waits, retry_delay_seconds=1) as upstream:
            await ask(upstream)
            assert 7.5 <= waits[0] <= 8
            found = await refusal(upstream)
    assert (found.status, found.retry_after) == (429, 3600)
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (drop(), "without a word"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-le", close=True), "within the head"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", close=True), "within the body"),
        (stream(done=False), "before the first event"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_connection_that_drops_before_the_answer_began_is_tried_again(first: Any, why: str) -> None:
    with fake_upstream(first, FINE) as fake:
        async with client(fake.url) as upstream:
            assert (await ask(upstream))["said"] == "fine"


async def test_nobody_listens() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        waits = Waits()
        async with client(f"http://127.0.0.1:{unheard.getsockname()[1]}/v1", waits) as upstream:
            error = await refusal(upstream)
    assert (error.status, error.message) == (502, "The upstream 'theirs' can't be reached.")
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", close=True), "does not answer in HTTP"),
        (answer(200, b"<html>Sign in</html>", content_type="text/html"), "no answer of OpenAI's API"),
        (answer(200, b"", content_type="application/json"), "no answer of OpenAI's API"),
        (answer(302, location="http://127.0.0.1:9/"), "not the right address"),
        (answer(401, {"error": {"message": "bad key"}}), "refused this server's key"),
    ],
)
async def test_what_no_second_attempt_would_mend(garbage: Any, words: str) -> None:
    with fake_upstream(garbage) as fake:
        async with client(fake.url) as upstream:
            error = await refusal(upstream)
    assert error.status == 502
    assert words in error.message
    assert len(fake.requests) == 1


async def test_a_silent_service_is_not_waited_for_twice() -> None:
    with fake_upstream() as fake:
        fake.script.append(fake.silence())
        async with client(fake.url, read_seconds=0.05) as upstream:
            error = await refusal(upstream)
            assert await asyncio.to_thread(fake.hung_up.wait, 5)
    assert (error.status, error.message) == (504, "The upstream 'theirs' was silent for 0.05 s.")


# -- streams -------------------------------------------------------------------------------------------


async def read(upstream: Upstream) -> list[bytes]:
    """A stream's pieces, also when it breaks off."""
    found = await upstream.post("/chat/completions", b"{}")
    pieces = [found.body]
    try:
        while piece := await found.more():
            pieces.append(piece)
    except UpstreamError as error:
        pieces.append(error.message.encode())
    finally:
        found.close()
    return pieces


async def test_a_stream_comes_as_it_was_sent() -> None:
    with fake_upstream(stream({"n": 1}, {"n": 2})) as fake:
        async with client(fake.url) as upstream:
            pieces = await read(upstream)
            assert upstream.active == 0
    assert b"".join(pieces) == b'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'


async def test_a_stream_that_breaks_off_is_never_asked_for_again() -> None:
    with fake_upstream(stream(chat_event("a"), done=False), FINE) as fake:
        async with client(fake.url) as upstream:
            pieces = await read(upstream)
    assert pieces[-1] == b"The upstream 'theirs' broke off."
    assert len(fake.requests) == 1


async def test_closing_a_stream_closes_its_connection() -> None:
    with fake_upstream() as fake:
        fake.script.append(fake.stream_without_end(chat_event("a")))
        async with client(fake.url) as upstream:
            found = await upstream.post("/chat/completions", b"{}")
            assert upstream.active == 1
            found.close()
            found.close()
            assert upstream.active == 0
            assert await asyncio.to_thread(fake.hung_up.wait, 5)


# -- leaving a service alone ---------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_tries_once_and_closes() -> None:
    clock = Clock()
    breaker = Breaker(3, 10, clock=clock)
    for verdict in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        assert breaker.admits()
        verdict()
    assert breaker.state == "closed"
    breaker.failed()
    assert (breaker.state, breaker.admits(), breaker.seconds_left) == ("open", False, 10)
    clock.now += 10
    assert breaker.state == "half-open"
    assert (breaker.admits(), breaker.admits()) == (True, False)
    breaker.failed()  # the trial: once is enough
    assert (breaker.admits(), breaker.seconds_left) == (False, 10)
    clock.now += 10
    assert breaker.admits()
    breaker.abandoned()
    assert (breaker.admits(), breaker.admits()) == (True, False)
    breaker.succeeded()
    assert (breaker.state, breaker.admits(), breaker.admits()) == ("closed", True, True)


async def test_a_service_that_keeps_failing_is_left_alone() -> None:
    with fake_upstream(*[BROKEN] * 4) as fake:
        async with client(fake.url, max_retries=3, breaker_failures=4, breaker_seconds=60) as upstream:
            assert (await refusal(upstream)).status == 502
            error = await refusal(upstream)
    assert error.status == 503
    assert error.retry_after == pytest.approx(60, abs=5)
    assert len(fake.requests) == 4


async def test_a_trial_brings_a_service_back() -> None:
    with fake_upstream(BROKEN, FINE, FINE) as fake:
        async with client(fake.url, max_retries=0, breaker_failures=1) as upstream:
            await refusal(upstream)
            upstream.breaker = Breaker(1, 1e-9)
            upstream.breaker.failed()
            assert (await ask(upstream))["said"] == "fine"
            assert upstream.breaker.state == "closed"


async def test_being_busy_is_no_failure() -> None:
    with fake_upstream(*[answer(429)] * 3, FINE) as fake:
        async with client(fake.url, breaker_failures=1, max_retries=2) as upstream:
            await refusal(upstream)
            assert (await ask(upstream))["said"] == "fine"


async def test_no_more_at_once_than_allowed() -> None:
    with fake_upstream() as fake:
        fake.script += [fake.stream_without_end(chat_event("a")), FINE]
        async with client(fake.url, max_concurrent=1) as upstream:
            first = await upstream.post("/chat/completions", b"{}")
            assert (await refusal(upstream)).status == 429
            first.close()
            assert (await ask(upstream))["said"] == "fine"


async def test_whoever_gives_up_frees_their_place() -> None:
    with fake_upstream() as fake:
        fake.script += [fake.silence(), FINE]
        async with client(fake.url, max_concurrent=1) as upstream:
            asking = asyncio.create_task(ask(upstream))
            while not fake.requests:
                await asyncio.sleep(0.001)
            asking.cancel()
            assert await asyncio.to_thread(fake.hung_up.wait, 5)
            assert (await ask(upstream))["said"] == "fine"


# -- how long to wait ----------------------------------------------------------------------------------


def test_waits_double_up_to_a_limit_with_half_of_it_chance() -> None:
    for attempt, longest in enumerate([0.5, 1, 2, 4, 8, 8]):
        seen = [wait_before_retry(attempt, 0.5, None) or 0 for _ in range(200)]
        assert longest / 2 <= min(seen) < 0.6 * longest
        assert 0.9 * longest < max(seen) <= longest
    assert wait_before_retry(0, 0, None) == 0
    assert wait_before_retry(0, 0, LONGEST_RETRY_AFTER + 1) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3),
        ("0.5", 0.5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_as_a_date() -> None:
    assert (retry_after_seconds("Fri, 31 Dec 2399 23:59:59 GMT") or 0) > 1e9
