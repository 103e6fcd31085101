"""Keys, limits and budgets hold for models elsewhere as for the server's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from platen.serve.access.keys import Limits, Scope
from platen.serve.access.keystore import Spent
from platen.serve.access.rate_limits import Counts
from platen.tokens.tokenizer import Tokenizer
from tests.engines.remote.fake_upstream import FakeUpstream, answer, chat, chat_stream, fake_upstream
from tests.serve.access.test_access import door

MESSAGES: Any = [{"role": "user", "content": "How are you?"}]


@pytest.fixture(autouse=True)
def _quick_and_in_the_middle_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platen.serve.access.layer.SYNC_SECONDS", 0.02)
    monkeypatch.setattr("platen.serve.access.layer.Counts", lambda store: Counts(store, clock=lambda: 30.0))


def config(fake: FakeUpstream) -> dict[str, Any]:
    big = {"name": "big", "base_url": fake.url, "max_retries": 0, "fallbacks": ["tiny"]}
    return {"upstreams": [big], "prices": {"big": {"prompt": 1e6, "completion": 2e6}}}


def test_use_is_charged_at_the_upstreams_price(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    script = (chat("Fine"), chat_stream("Fine"))
    with fake_upstream(*script) as fake, door(tmp_path, tiny_tokenizer, **config(fake)) as opened:
        client = opened.client(opened.key())
        client.chat.completions.create(model="big", messages=MESSAGES)
        opened.settles_at(Spent(1, 7, 3, 13.0))
        list(client.chat.completions.create(model="big", messages=MESSAGES, stream=True))
        opened.settles_at(Spent(2, 14, 6, 26.0))
        assert [model.id for model in client.models.list()] == ["tiny", "big"]


def test_a_key_is_kept_to_its_models_and_limits(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with fake_upstream(chat("Fine")) as fake, door(tmp_path, tiny_tokenizer, **config(fake)) as opened:
        small = opened.client(opened.key("small", models=("tiny",)))
        assert [model.id for model in small.models.list()] == ["tiny"]
        with pytest.raises(openai.PermissionDeniedError):
            small.chat.completions.create(model="big", messages=MESSAGES)
        limited = opened.client(opened.key("limited", limits=Limits(tokens_per_minute=100)))
        ask: Any = {"model": "big", "messages": MESSAGES, "max_tokens": 40}
        found = limited.chat.completions.with_raw_response.create(**ask)
        assert found.headers["x-ratelimit-limit-tokens"] == "100"
        with pytest.raises(openai.BadRequestError, match="may use"):
            limited.chat.completions.create(**ask | {"max_tokens": 100})
        with pytest.raises(openai.RateLimitError, match="limit of 100 tokens a minute"):
            limited.chat.completions.create(**ask | {"max_tokens": 75})
    assert len(fake.requests) == 1


def test_the_local_fallback_is_one_request_and_charged_for_itself(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with fake_upstream(answer(500)) as fake, door(tmp_path, tiny_tokenizer, **config(fake)) as opened:
        limits = Limits(requests_per_minute=10, tokens_per_minute=1000)
        client = opened.client(opened.key(limits=limits, scopes=frozenset(Scope)))
        ask: Any = {"model": "big", "messages": MESSAGES, "max_tokens": 3}
        answered = client.chat.completions.with_raw_response.create(**ask)
        found = answered.parse()
        assert found.model == "tiny"
        assert found.usage is not None
        prompt = found.usage.prompt_tokens
        assert answered.headers["x-ratelimit-remaining-requests"] == "9"
        assert answered.headers["x-ratelimit-remaining-tokens"] == str(1000 - prompt - 3)
        opened.settles_at(Spent(1, prompt, 3, 0.0))
        metrics = client.with_options(base_url=opened.url).get("/metrics", cast_to=str)
    counted = [line for line in metrics.splitlines() if line.startswith("platen_requests_total{")]
    assert [line for line in counted if "chat" in line] == [
        'platen_requests_total{model="tiny",route="/v1/chat/completions",status="200"} 1.0'
    ]
    assert 'platen_request_success_total{finished_reason="length",model="tiny"} 1.0' in metrics
    assert 'model="big"' not in metrics
