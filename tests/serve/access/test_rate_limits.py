"""Limits a minute: never exceeded, exact about when to come back, the same over several servers on Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from platen.core.state.embedded import EmbeddedState
from platen.serve.access.keys import Grant, Limits
from platen.serve.access.keystore import KeyStore
from platen.serve.access.layer import AccessControl
from platen.serve.access.rate_limits import LimitsStoreError, LocalCounts, Window
from platen.serve.config import ServeConfig
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import ScriptedEngine, serving, wait_until


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


REQUESTS = st.lists(st.tuples(st.floats(0, 45, allow_nan=False), st.integers(1, 30)), min_size=1, max_size=80)
"""Seconds since the one before, and how much it wants."""


@given(requests=REQUESTS, limit=st.integers(30, 60))
def test_no_minute_has_more_than_the_limit_and_no_sixty_seconds_more_than_twice(
    requests: list[tuple[float, int]], limit: int
) -> None:
    clock = Clock()
    counts = LocalCounts(clock)
    taken: list[tuple[float, int]] = []
    for pause, amount in requests:
        clock.now += pause
        if counts.take("key", limit, amount)[0]:
            taken.append((clock.now, amount))
    for minute in range(int(clock.now // 60) + 1):
        assert sum(a for at, a in taken if at // 60 == minute) <= limit
    for start, _ in taken:
        assert sum(a for at, a in taken if start <= at < start + 60) < 2 * limit


@given(requests=REQUESTS, limit=st.integers(30, 60))
def test_whoever_comes_back_when_told_to_is_let_in_and_not_much_before(
    requests: list[tuple[float, int]], limit: int
) -> None:
    clock = Clock()
    counts = LocalCounts(clock)
    for pause, amount in requests:
        clock.now += pause
        taken, window = counts.take("key", limit, amount)
        if taken:
            continue
        wait = window.seconds_until(amount)
        assert 0 < wait <= 120
        asked, clock.now = clock.now, clock.now + 0.99 * wait - 0.01
        if clock.now > asked:
            assert not counts.take("key", limit, amount)[0]
        clock.now = asked + wait + 0.001
        assert counts.take("key", limit, amount)[0]


@given(given_back=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=40))
def test_what_is_given_back_can_be_used_again(given_back: list[tuple[int, int]]) -> None:
    counts = LocalCounts(lambda: 10.0)
    used = 0
    for amount, back in given_back:
        if counts.take("key", 100, amount)[0]:
            used += amount
            counts.add("key", -min(amount, back))
            used -= min(amount, back)
        assert counts.take("key", 100, 0)[1].remaining == 100 - used
    counts.add("key", 500)
    assert counts.take("key", 100, 1)[0] is False


def test_a_limit_fades_over_the_next_minute() -> None:
    clock = Clock(30)
    counts = LocalCounts(clock)
    assert counts.take("key", 60, 60) == (True, Window(60, 0, 60, 30))
    for now, remaining in ((59, 0), (60, 0), (75, 15), (90, 30), (119, 59), (120, 60)):
        clock.now = now
        assert counts.take("key", 60, 0)[1].remaining == remaining
    assert [Window(60, 9, 0, 30).reset_seconds, Window(60, 0, 9, 30).reset_seconds] == [30, 90]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis of the test's own; its port is its attribute `port`."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (make setup)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as connection:
            wait_until(lambda: answers(connection))
        process.port = port  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.wait()


def answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False


def ask(url: str, key: str, max_tokens: int = 1) -> str:
    """How many requests are left, or why it was refused."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        try:
            answer = client.completions.with_raw_response.create(
                model="tiny", prompt=[1, 2], max_tokens=max_tokens
            )
        except openai.RateLimitError as error:
            return str(error.code)
        return f"{answer.headers['x-ratelimit-remaining-requests']} requests"


def test_servers_on_one_redis_share_the_limits_and_go_on_without_it(
    tmp_path: Path, tiny_tokenizer: Tokenizer, redis_server: subprocess.Popen[bytes]
) -> None:
    address = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    config = ServeConfig(keys="required", drain_seconds=1, limits_store=address)
    store = KeyStore(EmbeddedState(tmp_path))
    _, key = store.create(Grant("alice", "alice", limits=Limits(requests_per_minute=4)))
    _, other = store.create(Grant("bob", "bob", limits=Limits(2**20, tokens_per_minute=50)))
    engines = [ScriptedEngine(["word "] * 40) for _ in range(2)]
    with (
        serving(engines[0], tiny_tokenizer, config, project_dir=tmp_path) as one,
        serving(engines[1], tiny_tokenizer, config, project_dir=tmp_path) as two,
    ):
        # A minute of Redis begins with a key's first request: no other begins in this test.
        assert [ask(server.url, key) for server in (one, two, one, two)] == [
            f"{left} requests" for left in (3, 2, 1, 0)
        ]
        assert [ask(server.url, key) for server in (one, two)] == ["rate_limit_exceeded"] * 2
        assert ask(one.url, other, max_tokens=30).endswith("requests")
        assert ask(two.url, other, max_tokens=30) == "rate_limit_exceeded"
        redis_server.kill()
        redis_server.wait()
        began = time.monotonic()
        assert ask(one.url, key) == "3 requests"
        assert time.monotonic() - began < 5


def test_tokens_not_used_are_given_back_on_redis(
    tmp_path: Path, tiny_tokenizer: Tokenizer, redis_server: subprocess.Popen[bytes]
) -> None:
    address = f"redis://127.0.0.1:{redis_server.port}"  # type: ignore[attr-defined]
    config = ServeConfig(keys="required", drain_seconds=1, limits_store=address)
    _, key = KeyStore(EmbeddedState(tmp_path)).create(
        Grant("alice", "alice", limits=Limits(2**20, tokens_per_minute=100))
    )
    with serving(ScriptedEngine(["word "] * 8), tiny_tokenizer, config, project_dir=tmp_path) as server:
        for _ in range(4):  # each time 70 are set aside and 10 used
            wait_until(lambda: ask(server.url, key, max_tokens=68).endswith("requests"))
        assert ask(server.url, key, max_tokens=68) == "rate_limit_exceeded"


def test_a_redis_that_is_not_there_is_told_at_the_start_without_its_password(tmp_path: Path) -> None:
    config = ServeConfig(keys="required", limits_store="redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(LimitsStoreError, match=r"127\.0\.0\.1:1") as refusal:
        AccessControl(config, EmbeddedState(tmp_path))
    assert "secret" not in str(refusal.value)
