"""Keys, limits and budgets, as the official OpenAI client meets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.core.state.embedded import EmbeddedState
from platen.serve.access.keys import Grant, Limits, Scope
from platen.serve.access.keystore import KeyStore, Spent
from platen.serve.access.layer import AccessControl, AccessError
from platen.serve.access.rate_limits import Counts
from platen.serve.config import PriceConfig, ServeConfig
from platen.tokens.tokenizer import Tokenizer
from platen.web.errors import ApiError
from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until

PROMPT = [1, 2, 3, 4, 5]


@pytest.fixture(autouse=True)
def _quick_and_in_the_middle_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage is written every few milliseconds; no minute ends while a test looks at it."""
    monkeypatch.setattr("platen.serve.access.layer.SYNC_SECONDS", 0.02)
    monkeypatch.setattr("platen.serve.access.layer.Counts", lambda store: Counts(store, clock=lambda: 30.0))


class Door:
    """A server that asks for keys, its keys, and clients that have them."""

    def __init__(self, folder: Path, engine: ScriptedEngine, server: RunningServer) -> None:
        self.store = KeyStore(EmbeddedState(folder))
        self.engine, self.url = engine, server.url

    def key(self, name: str = "alice", **grant: Any) -> str:
        """The text of a new key that the server knows already."""
        key, text = self.store.create(Grant(name, grant.pop("tenant", name), **grant))
        client = self.client(text)
        if Scope.models in key.grant.scopes:
            wait_until(lambda: not refused(client.models.list))
        return text

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def ask(self, key: str, **request: Any) -> Any:
        given = {"model": "tiny", "prompt": PROMPT, "max_tokens": 10} | request
        return self.client(key).completions.with_raw_response.create(**given)

    def spent(self) -> Spent:
        return next(iter(self.store.read().spent.values()), Spent())

    def settles_at(self, expected: Spent) -> None:
        wait_until(lambda: self.spent() == expected)


def refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except openai.AuthenticationError:
        return True
    return False


@contextmanager
def door(
    folder: Path, tokenizer: Tokenizer, engine: ScriptedEngine | None = None, **config: Any
) -> Iterator[Door]:
    engine = engine or ScriptedEngine([f"word{i} " for i in range(40)])
    settings = ServeConfig(drain_seconds=1, **({"keys": "required"} | config))
    with serving(engine, tokenizer, settings, project_dir=folder) as server:
        yield Door(folder, engine, server)


@pytest.fixture
def guarded(tmp_path: Path, tiny_tokenizer: Tokenizer, scripted: ScriptedEngine) -> Iterator[Door]:
    with door(tmp_path, tiny_tokenizer, scripted) as opened:
        yield opened


def test_only_a_valid_key_is_let_in(guarded: Door) -> None:
    key = guarded.key()
    assert guarded.ask(key).parse().choices[0].text.startswith("word0 word1 ")
    for wrong in ("none", key[:-1], key + "x", key.replace("platen", "other"), "platen_0000000000_x"):
        with pytest.raises(openai.AuthenticationError) as refusal:
            guarded.ask(wrong)
        assert (refusal.value.status_code, refusal.value.code) == (401, "invalid_api_key")
        assert refusal.value.type == "invalid_request_error"
        assert refusal.value.response.headers["www-authenticate"] == "Bearer"
        assert wrong not in refusal.value.message
    without = httpx.post(f"{guarded.url}/v1/completions", json={})
    assert (without.status_code, without.json()["error"]["code"]) == (401, "invalid_api_key")


@settings(max_examples=50)
@given(
    headers=st.lists(
        st.binary(max_size=40)
        | st.binary(max_size=40).map(lambda rest: b"Bearer platen_" + rest)
        | st.sampled_from(
            [b"Bearer", b"Bearer ", b"bearer platen__", b"Basic cGw6eA==", "Bearer ё".encode()]
        ),
        max_size=20,
    )
)
def test_no_header_but_a_keys_gets_in(headers: list[bytes]) -> None:
    async def ask(control: AccessControl) -> None:
        for header in headers:
            with pytest.raises(ApiError) as refusal:
                await control.identify(header, Scope.infer)
            assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")

    with TemporaryDirectory() as folder:
        asyncio.run(ask(AccessControl(ServeConfig(keys="required"), EmbeddedState(Path(folder)))))


def test_page_health_and_description_need_no_key(guarded: Door) -> None:
    for path in ("/", "/static/app.js", "/health", "/openapi.json"):
        assert httpx.get(guarded.url + path).status_code == 200, path
    for path in ("/v1/models", "/metrics", "/admin/models", "/nothing"):
        assert httpx.get(guarded.url + path).status_code == 401, path


def test_a_revoked_key_is_refused_by_a_running_server_within_seconds(guarded: Door) -> None:
    key = guarded.key()
    client = guarded.client(key)
    client.models.list()
    guarded.store.revoke("alice")
    wait_until(lambda: refused(client.models.list))
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        guarded.ask(key)


def test_an_expired_key_is_refused(guarded: Door) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    _, text = guarded.store.create(Grant("old", "old", expires=yesterday))
    guarded.key("new", expires=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(openai.AuthenticationError, match="expired"):
        guarded.ask(text)


def test_a_key_does_only_what_its_scopes_say(guarded: Door) -> None:
    reader = guarded.key("reader", scopes=frozenset({Scope.models}))
    assert [model.id for model in guarded.client(reader).models.list()] == ["tiny"]
    with pytest.raises(openai.PermissionDeniedError, match="infer") as refusal:
        guarded.ask(reader)
    assert refusal.value.code == "insufficient_permissions"
    bearer = {"authorization": f"Bearer {reader}"}
    assert httpx.get(f"{guarded.url}/metrics", headers=bearer).status_code == 403
    assert httpx.get(f"{guarded.url}/admin/models", headers=bearer).status_code == 403


def test_a_key_uses_only_its_models(guarded: Door) -> None:
    key = guarded.key("narrow", models=("llama-*", "other"))
    assert list(guarded.client(key).models.list()) == []
    with pytest.raises(openai.PermissionDeniedError) as refusal:
        guarded.ask(key)
    assert (refusal.value.code, refusal.value.param) == ("model_not_allowed", "model")
    with pytest.raises(openai.PermissionDeniedError):
        guarded.client(key).models.retrieve("tiny")
    bearer = {"authorization": f"Bearer {key}"}
    for path, body in (
        ("/tokenize", {"prompt": "x"}),
        ("/tokenize", {"model": "tiny", "prompt": "x"}),
        ("/detokenize", {"tokens": [1]}),
        ("/detokenize", {"model": "tiny", "tokens": [1]}),
    ):
        found = httpx.post(f"{guarded.url}{path}", json=body, headers=bearer)
        assert (found.status_code, found.json()["error"]["code"]) == (403, "model_not_allowed")
    assert httpx.get(f"{guarded.url}/tokenizer_info", headers=bearer).status_code == 403
    wide = guarded.key("wide", models=("llama-*", "ti?y"))
    assert guarded.ask(wide).parse()
    bearer = {"authorization": f"Bearer {wide}"}
    assert httpx.post(f"{guarded.url}/tokenize", json={"prompt": "x"}, headers=bearer).status_code == 200


def test_where_keys_are_optional_they_give_precedence(
    tmp_path: Path, tiny_tokenizer: Tokenizer, scripted: ScriptedEngine
) -> None:
    with door(tmp_path, tiny_tokenizer, scripted, keys="optional") as opened:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1}
        assert httpx.post(f"{opened.url}/v1/completions", json=body).status_code == 200
        opened.ask(opened.key("alice", tenant="acme", priority="high"))
        nobody, alice = scripted.requests
        assert (nobody.tenant, nobody.priority) == ("anonymous", -1)
        assert (alice.tenant, alice.priority) == ("acme", 1)
        with pytest.raises(openai.AuthenticationError):
            opened.ask("platen_0000000000_wrong")
        assert httpx.get(f"{opened.url}/admin/models").status_code == 401


def test_requests_a_minute(guarded: Door) -> None:
    key = guarded.key(limits=Limits(requests_per_minute=3))
    left = [guarded.ask(key).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as refusal:
        guarded.ask(key)
    headers = refusal.value.response.headers
    assert refusal.value.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m30s"
    assert headers["retry-after"] == "30"
    guarded.client(key).models.list()  # is no request for work
    guarded.ask(guarded.key("bob", limits=Limits(requests_per_minute=3)))


def test_tokens_are_set_aside_and_what_was_not_used_is_given_back(guarded: Door) -> None:
    key = guarded.key(limits=Limits(tokens_per_minute=1000))
    first = guarded.ask(key, max_tokens=100)
    assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - 5 - 100)
    used = first.parse().usage.total_tokens
    assert used == 5 + 40
    second = guarded.ask(key, max_tokens=100)
    assert second.headers["x-ratelimit-remaining-tokens"] == str(1000 - used - 105)
    little = guarded.key("bob", limits=Limits(tokens_per_minute=100))
    with pytest.raises(openai.BadRequestError, match="max_tokens") as refusal:
        guarded.ask(little, max_tokens=96)
    assert refusal.value.code == "request_too_large"


def test_tokens_a_minute(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with door(tmp_path, tiny_tokenizer, ScriptedEngine(["word "] * 200)) as opened:
        key = opened.key(limits=Limits(tokens_per_minute=200))
        opened.ask(key, max_tokens=100)
        with pytest.raises(openai.RateLimitError, match="tokens a minute") as refusal:
            opened.ask(key, max_tokens=100)
        # 105 are used; as many more fit when fewer than 96 of them count: 60 (1 - 96/105) s after the minute.
        assert refusal.value.response.headers["retry-after"] == "36"
        opened.settles_at(Spent(1, 5, 100, 0.0))


def test_each_request_is_settled_once_however_it_ends(
    tmp_path: Path, tiny_tokenizer: Tokenizer, scripted: ScriptedEngine
) -> None:
    prices = {"tiny": PriceConfig(prompt=1_000_000, completion=2_000_000)}
    with door(tmp_path, tiny_tokenizer, scripted, prices=prices) as opened:
        key = opened.key(limits=Limits(tokens_per_minute=100_000, tokens=10_000, money=20_000))
        opened.ask(key, n=2)
        opened.settles_at(Spent(1, 5, 20, 45))
        list(opened.client(key).completions.create(model="tiny", prompt=PROMPT, max_tokens=10, stream=True))
        opened.settles_at(Spent(2, 10, 30, 70))
        scripted.break_after = 4
        with pytest.raises(openai.InternalServerError):
            opened.ask(key)
        opened.settles_at(Spent(3, 15, 34, 83))
        scripted.break_after = 0
        with pytest.raises(openai.InternalServerError):
            opened.ask(key)
        opened.settles_at(Spent(4, 15, 34, 83))  # nothing was read before it broke
        scripted.break_after, scripted.full_for = None, 5.0
        with pytest.raises(openai.RateLimitError):
            opened.ask(key)
        opened.settles_at(Spent(5, 15, 34, 83))
        scripted.full_for, scripted.seconds_per_piece = None, 0.05
        with opened.client(key).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=30, stream=True
        ) as stream:
            next(iter(stream))
        wait_until(lambda: opened.spent().requests == 6)
        spent = opened.spent()
        assert spent.prompt_tokens == 20
        assert 34 < spent.completion_tokens < 64
        remaining = int(opened.ask(key, max_tokens=1).headers["x-ratelimit-remaining-tokens"])
        assert remaining >= 100_000 - 6 * 5 - 6 * 30


def test_a_budget_of_tokens(guarded: Door) -> None:
    key = guarded.key(limits=Limits(tokens=40))
    guarded.ask(key, max_tokens=20)
    with pytest.raises(openai.RateLimitError, match="15 is left") as refusal:
        guarded.ask(key, max_tokens=20)
    assert refusal.value.code == "insufficient_quota"
    assert int(refusal.value.response.headers["retry-after"]) <= 31 * 24 * 3600
    guarded.ask(key, max_tokens=10)


def test_a_budget_of_money_at_the_projects_prices(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    prices = {"other": PriceConfig(prompt=9e9), "t*": PriceConfig(prompt=100, completion=1000)}
    with door(tmp_path, tiny_tokenizer, prices=prices) as opened:
        key = opened.key(limits=Limits(money=0.03))
        opened.ask(key, max_tokens=20)
        with pytest.raises(openai.RateLimitError, match="budget") as refusal:
            opened.ask(key, max_tokens=20)
        assert refusal.value.code == "insufficient_quota"
        assert opened.ask(key, max_tokens=9).parse()
        wait_until(lambda: opened.spent().requests == 2)
        assert opened.spent().money == pytest.approx((10 * 100 + 29 * 1000) / 1e6)


def test_what_was_used_outlives_the_server(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with door(tmp_path, tiny_tokenizer) as opened:
        key = opened.key(limits=Limits(tokens=40))
        opened.ask(key, max_tokens=20)
    with door(tmp_path, tiny_tokenizer) as opened, pytest.raises(openai.RateLimitError):
        opened.ask(key, max_tokens=20)


def test_keys_need_a_project_and_their_absence_is_told() -> None:
    with pytest.raises(AccessError, match="required"):
        AccessControl(ServeConfig(keys="required"))
    assert AccessControl(ServeConfig()).warnings() == []
    [warning] = AccessControl(ServeConfig(host="0.0.0.0")).warnings()
    assert "keys" in warning


def test_a_server_without_a_key_says_how_to_make_one(tmp_path: Path) -> None:
    control = AccessControl(ServeConfig(keys="required"), EmbeddedState(tmp_path))
    assert "platen keys create" in control.warnings()[0]
