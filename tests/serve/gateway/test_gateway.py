"""The gateway: models elsewhere beside the local one, through the official OpenAI client, unmodified."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from platen.core.errors import ConfigError
from platen.serve.config import ServeConfig
from platen.serve.gateway.layer import open_upstreams
from platen.tokens.tokenizer import Tokenizer
from tests.engines.remote.fake_upstream import (
    STAMP,
    USAGE,
    Action,
    FakeUpstream,
    answer,
    chat,
    chat_event,
    chat_stream,
    drop,
    error,
    fake_upstream,
    raw,
    stream,
)
from tests.serve.guards.pieces import SECRETS
from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until

MESSAGES: Any = [{"role": "user", "content": "How are you?"}]
KEY = "sk-their-secret"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)


def upstream(name: str, url: str, **settings: Any) -> dict[str, Any]:
    quick = {"retry_delay_seconds": 0, "model": "their-model", "api_key_env": "THEIR_KEY"}
    return {"name": name, "base_url": url, **quick, **settings}


class Desk:
    """Two upstreams, "big" and "spare", behind a server whose own model is "tiny"."""

    def __init__(self, big: FakeUpstream, spare: FakeUpstream, server: RunningServer) -> None:
        self.big, self.spare, self.server = big, spare, server
        # Without certificates: reading them takes longer than the test.
        self.http = httpx.Client(base_url=server.url, timeout=20, verify=False)
        self.openai = openai.OpenAI(
            base_url=f"{server.url}/v1",
            api_key="sk-client",
            max_retries=0,
            http_client=httpx.Client(verify=False),
        )

    def chat(self, model: str = "big", **fields: Any) -> Any:
        return self.openai.chat.completions.create(model=model, messages=MESSAGES, **fields)


@contextmanager
def desk(
    scripted: ScriptedEngine,
    tokenizer: Tokenizer,
    *script: Action,
    spare: tuple[Action, ...] = (),
    **big: Any,
) -> Iterator[Desk]:
    with ExitStack() as stack:
        one, two = stack.enter_context(fake_upstream(*script)), stack.enter_context(fake_upstream(*spare))
        upstreams = [upstream("big", one.url, **big), upstream("spare", two.url, model="spare-model")]
        config = ServeConfig.model_validate({"drain_seconds": 1, "upstreams": upstreams})
        found = Desk(one, two, stack.enter_context(serving(scripted, tokenizer, config)))
        yield stack.enter_context(found.openai) and found


def test_it_lists_them_after_the_local_model(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer) as here:
        assert [model.id for model in here.openai.models.list()] == ["tiny", "big", "spare"]
        assert here.openai.models.retrieve("spare").owned_by == "upstream"
        assert here.openai.models.retrieve("tiny").owned_by == "platen"


def test_a_chat(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer, chat("Fine, \"model\": 'x' 🙂")) as here:
        found = here.chat(temperature=0.5, seed=3, extra_body={"new_parameter": [1]})
    assert found.choices[0].message.content == "Fine, \"model\": 'x' 🙂"
    assert found.model == "big"
    assert found.usage.total_tokens == 10
    sent = here.big.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert "sk-client" not in json.dumps(sent.headers)
    assert sent.body == {
        "model": "their-model",
        "messages": MESSAGES,
        "temperature": 0.5,
        "seed": 3,
        "new_parameter": [1],
    }


def test_a_streamed_chat(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer, *[chat_stream("Fine", ", thanks")] * 2) as here:
        bare = list(here.chat(stream=True))
        counted = list(here.chat(stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in bare) == "Fine, thanks"
    assert {piece.model for piece in bare} == {"big"}
    assert bare[-1].choices[0].finish_reason == "stop"
    assert counted[:-1] == bare
    assert (counted[-1].choices, counted[-1].usage.total_tokens) == ([], 10)
    assert here.big.bodies("stream_options") == [{"include_usage": True}] * 2


def test_token_counts_are_not_asked_for_where_that_would_be_refused(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    with desk(scripted, tiny_tokenizer, chat_stream("Fine"), stream_usage=False) as here:
        list(here.chat(stream=True))
    assert "stream_options" not in here.big.requests[0].body


def test_completions_embeddings_and_responses(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    choice = {"index": 0, "text": "Fine", "finish_reason": "stop", "logprobs": None}
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, -1e-7]}
    output = {"type": "output_text", "text": "Fine", "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [output]}
    response = {**STAMP, "object": "response", "output": [message], "status": "completed"}
    response["usage"] = {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6}
    delta = {"type": "response.output_text.delta", "delta": "Fine", "item_id": "m", "sequence_number": 1}
    completed = {"type": "response.completed", "response": response, "sequence_number": 2}
    script = (
        answer(200, {**STAMP, "object": "text_completion", "choices": [choice], "usage": USAGE}),
        answer(200, {"object": "list", "model": "their-model", "data": [vector], "usage": USAGE}),
        answer(200, response),
        stream(delta, completed),
    )
    with desk(scripted, tiny_tokenizer, *script) as here:
        assert here.openai.completions.create(model="big", prompt="How").choices[0].text == "Fine"
        found = here.openai.embeddings.create(model="big", input="How", encoding_format="float")
        assert (found.model, found.data[0].embedding) == ("big", [0.1, -1e-7])
        whole = here.openai.responses.create(model="big", input="How are you?")
        assert (whole.model, whole.output_text) == ("big", "Fine")
        events = list(here.openai.responses.create(model="big", input="How are you?", stream=True))
    assert [event.type for event in events] == ["response.output_text.delta", "response.completed"]
    assert events[1].response.model == "big"  # type: ignore[union-attr]
    paths = ["completions", "embeddings", "responses", "responses"]
    assert [request.path for request in here.big.requests] == [f"/v1/{path}" for path in paths]


def test_the_local_model_answers_as_ever(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer) as here:
        assert here.chat("tiny", max_tokens=2).choices[0].message.content == "word0 word1 "
        assert len(list(here.chat("tiny", max_tokens=2, stream=True))) == 3
        for body, code in (
            (b"{", "invalid_json"),
            (b"[1]", None),
            (b'{"messages": []}', None),
            (b'{"model": 7, "messages": []}', None),
            (b'{"model": "other", "messages": [{"role": "user"}]}', "model_not_found"),
        ):
            json_type = {"content-type": "application/json"}
            found = here.http.post("/v1/chat/completions", content=body, headers=json_type)
            assert 400 <= found.status_code < 500
            assert code in (None, found.json()["error"]["code"]), found.text
        long = here.http.post("/v1/chat/completions", content=iter([b" " * 60_000] * 2))
        assert (long.status_code, long.json()["error"]["code"]) == (413, "body_too_large")


def test_content_types_count_for_upstreams_as_for_local_models(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    taken = ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"]
    others = [
        "",
        "json",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "application/json, *",
    ]
    others += ["application/json/x", "multipart/form-data; boundary=x"]
    with desk(scripted, tiny_tokenizer, *[chat("Fine")] * len(taken)) as here:

        def ask(model: str, headers: dict[str, str]) -> httpx.Response:
            body = json.dumps({"model": model, "messages": MESSAGES}).encode()
            return here.http.post("/v1/chat/completions", content=body, headers=headers)

        for content_type in taken:
            for model in ("tiny", "big"):
                assert ask(model, {"content-type": content_type}).status_code == 200, content_type
        for headers in [{}, *({"content-type": content_type} for content_type in others)]:
            for model in ("tiny", "big"):
                found = ask(model, headers)
                assert found.status_code == 400, headers
                assert found.json()["error"]["code"] == "invalid_body"
                assert "must be a JSON object, sent as application/json" in found.text
    assert len(here.big.requests) == len(taken)


def test_a_body_in_utf_16_or_with_a_byte_order_mark(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    """As PowerShell writes files."""
    body = json.dumps({"model": "big", "messages": MESSAGES})
    with desk(scripted, tiny_tokenizer, chat("Fine"), chat("Fine")) as here:
        for encoding in ("utf-8-sig", "utf-16"):
            content, headers = body.encode(encoding), {"content-type": "application/json"}
            assert here.http.post("/v1/chat/completions", content=content, headers=headers).status_code == 200
    assert here.big.bodies("messages") == [MESSAGES] * 2


def test_a_name_that_answers_nowhere_or_not_here(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer) as here:
        with pytest.raises(openai.NotFoundError, match="this server has 'tiny', 'big', 'spare'"):
            here.chat("huge")
        found = here.http.post("/tokenize", json={"model": "big", "prompt": "x"})
    assert (found.status_code, found.json()["error"]["code"]) == (404, "model_not_found")
    assert "'big' is elsewhere" in found.text


# -- failures ------------------------------------------------------------------------------------------


def test_what_passes_is_waited_out(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with desk(scripted, tiny_tokenizer, answer(503), drop(), chat("Fine")) as here:
        assert here.chat().choices[0].message.content == "Fine"


def test_the_upstreams_own_refusal_reaches_the_client(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    script = (
        error(400, f"No such thing as {KEY}.", param="messages", code="bad_thing"),
        answer(404, {"detail": "Not Found"}),
        answer(200, {"error": {"message": f"Not with {KEY}."}}),
        stream({"error": {"message": f"Not with {KEY}."}}),
        stream({"type": "response.failed", "response": {"error": {"message": f"Not with {KEY}."}}}),
        error(401, f"Incorrect API key provided: {KEY}"),
    )
    with desk(scripted, tiny_tokenizer, *script) as here:
        with pytest.raises(openai.BadRequestError) as refused:
            here.chat()
        assert (refused.value.param, refused.value.code) == ("messages", "bad_thing")
        assert "No such thing as ***." in refused.value.message
        with pytest.raises(openai.NotFoundError, match=r"upstream 'big' refused the request.*base_url"):
            here.chat()
        assert here.chat().error == {"message": "Not with ***."}
        with pytest.raises(openai.APIError, match=r"Not with \*\*\*\."):
            list(here.chat(stream=True))
        (failed,) = here.openai.responses.create(model="big", input="Hello", stream=True)
        assert failed.response.error.message == "Not with ***."  # type: ignore[union-attr]
        with pytest.raises(openai.InternalServerError, match="refused this server's key") as hidden:
            here.chat()
    assert hidden.value.status_code == 502
    assert KEY not in str(hidden.value.body)


def test_a_limit_upstream_is_told_with_when_to_come_back(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    script = answer(429, retry_after="90")
    with desk(scripted, tiny_tokenizer, script) as here, pytest.raises(openai.RateLimitError) as limited:
        here.chat()
    assert limited.value.response.headers["retry-after"] == "90"
    assert limited.value.code == "upstream_overloaded"


@pytest.mark.parametrize(
    "broken",
    [
        answer(500),
        drop(),
        answer(200, b"<html>"),
        answer(200, b'{"choices": [}'),
        raw(b"\x00\x01\x02\r\n\r\n", close=True),
        stream(done=False),
        answer(403),
    ],
)
def test_the_fallback_answers(broken: Action, scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    fallback = {"spare": (chat("Spare"),), "fallbacks": ("spare", "tiny"), "max_retries": 0}
    with desk(scripted, tiny_tokenizer, broken, **fallback) as here:
        found = here.chat()
    assert (found.model, found.choices[0].message.content) == ("spare", "Spare")
    assert here.spare.bodies("model") == ["spare-model"]


def test_in_the_end_the_local_model(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    fallback = {"spare": (answer(500),) * 6, "fallbacks": ("spare", "tiny"), "max_retries": 0}
    with desk(scripted, tiny_tokenizer, answer(500), answer(500), **fallback) as here:
        found = here.chat(max_tokens=2)
        assert (found.model, found.choices[0].message.content) == ("tiny", "word0 word1 ")
        pieces = list(here.chat(max_tokens=2, stream=True))
        assert {piece.model for piece in pieces} == {"tiny"}


def test_nobody_answers(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        config = {"upstreams": [upstream("big", nowhere, fallbacks=["x"]), upstream("x", nowhere)]}
        config |= {"drain_seconds": 1}
        with serving(scripted, tiny_tokenizer, ServeConfig.model_validate(config)) as server:
            body = {"model": "big", "messages": MESSAGES}
            found = httpx.post(f"{server.url}/v1/chat/completions", json=body, verify=False)
    assert found.status_code == 502
    message = "The upstream 'big' can't be reached. Nor did its fallback answer."
    assert found.json()["error"] == {
        "message": message,
        "type": "server_error",
        "param": None,
        "code": "upstream_failed",
    }


def test_a_broken_stream_is_said_to_be_broken_and_never_begun_again(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    cut = stream(chat_event("Fine"), done=False)
    silent_end = raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n", close=True)
    fallback = {"spare": (chat("Spare"),), "fallbacks": ("spare", "tiny")}
    with desk(scripted, tiny_tokenizer, cut, silent_end, **fallback) as here:
        seen = []
        with pytest.raises(openai.APIError, match="The upstream 'big' broke off"):
            seen += [piece.choices[0].delta.content for piece in here.chat(stream=True)]
        lines = here.http.post(
            "/v1/chat/completions", json={"model": "big", "messages": MESSAGES, "stream": True}
        ).text.split("\n\n")
        metrics = here.http.get("/metrics").text
    assert 'platen_request_success_total{finished_reason="error",model="big"} 2.0' in metrics
    assert 'finished_reason="stop",model="big"' not in metrics
    assert lines[0] == "data: {}"
    assert "broke off in the middle" in lines[1]
    assert here.spare.requests == []


def test_a_client_that_leaves_takes_the_upstreams_work_along(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    with desk(scripted, tiny_tokenizer) as here:
        here.big.script += [here.big.silence(), here.big.stream_without_end(chat_event("Fine"))]
        body = {"model": "big", "messages": MESSAGES}
        with pytest.raises(httpx.ReadTimeout):
            here.http.post("/v1/chat/completions", json=body, timeout=0.1)
        assert here.big.hung_up.wait(5)
        here.big.hung_up.clear()
        with here.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
            assert next(response.iter_lines()).startswith("data: ")
        assert here.big.hung_up.wait(5)
        wait_until(lambda: here.server.state.active == 0)


def test_at_the_end_of_draining_what_still_runs_is_told(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    with desk(scripted, tiny_tokenizer, fallbacks=("spare", "tiny")) as here:
        here.big.script += [here.big.stream_without_end(chat_event("Fine")), here.big.silence()]
        streamed = here.chat(stream=True)
        assert next(streamed).choices[0].delta.content == "Fine"
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(here.chat)
            wait_until(lambda: len(here.big.requests) == 2)
            here.server.stop()
            with pytest.raises(openai.InternalServerError, match="shutting down") as ended:
                waiting.result()
        assert ended.value.status_code == 503
        with pytest.raises(openai.APIError, match="shutting down"):
            next(streamed)


# -- what the project file may say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_url": "https://me:pw-1234@api.example.com/v1"}, "must not hold credentials"),
        ({"base_url": "https://pw-1234@api.example.com/v1"}, "must not hold credentials"),
        ({"base_url": "https://api.example.com/v1?key=pw-1234"}, "without"),
        ({"base_url": "ftp://api.example.com"}, "http and https"),
        ({"base_url": "api.example.com/v1"}, "http and https"),
        ({"base_url": "https://"}, "http and https"),
        ({"base_url": "https://[::1/v1"}, "no URL"),
        ({"base_url": "https://host:99999/v1"}, "no URL"),
        ({"api_key_env": "sk-pw-1234"}, "no name of an environment variable"),
        ({"name": "spare"}, "two upstreams are named spare"),
        ({"fallbacks": ["big"]}, "its own fallback"),
        ({"max_retries": -1}, "greater than or equal to 0"),
        ({"read_seconds": 0}, "greater than 0"),
        ({"api_key": "pw-1234"}, "Extra inputs"),
    ],
)
def test_upstreams_that_cannot_be(change: dict[str, Any], words: str) -> None:
    big = {"name": "big", "base_url": "https://api.example.com/v1"} | change
    spare = {"name": "spare", "base_url": "http://127.0.0.1:1/v1/"}
    with pytest.raises(ValidationError, match=words) as caught:
        ServeConfig.model_validate({"upstreams": [big, spare]})
    messages = [found["msg"] for found in caught.value.errors()]
    assert "pw-1234" not in " ".join(messages)


def test_a_trailing_slash_does_no_harm() -> None:
    (only,) = ServeConfig.model_validate({"upstreams": [upstream("big", "http://host/v1/")]}).upstreams
    assert only.base_url == "http://host/v1"


def test_what_the_server_cannot_do_stops_it_at_once() -> None:
    def configs(**settings: Any) -> Any:
        one = upstream("big", "http://127.0.0.1:1/v1", **settings)
        return ServeConfig.model_validate({"upstreams": [one]}).upstreams

    with pytest.raises(ConfigError, match="has the name of a model that is served here"):
        open_upstreams(configs(), ["big"])
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        open_upstreams(configs(api_key_env="NO_SUCH_KEY"), [])
    assert [one.name for one in open_upstreams(configs(redact=True), [])] == ["big"]


def test_planted_secrets_never_reach_the_upstream(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """Though no guard is on, `redact: true` masks; elsewhere the texts go as they are."""
    planted = "; ".join(SECRETS)
    turns: Any = [{"role": "system", "content": planted}, {"role": "user", "content": f"Look: {planted}"}]
    with desk(scripted, tiny_tokenizer, chat("Fine"), spare=(chat("Fine"),), redact=True) as here:
        here.openai.chat.completions.create(model="big", messages=turns)
        here.openai.chat.completions.create(model="spare", messages=turns)
        metrics = here.http.get("/metrics").text
    masked = "; ".join(f"[{kind.upper()}]" for kind in SECRETS.values())
    assert [turn["content"] for turn in here.big.requests[0].body["messages"]] == [masked, f"Look: {masked}"]
    assert here.spare.requests[0].body["messages"] == turns
    assert 'guard="secrets",rule="iban"} 4.0' in metrics
    assert 'platen_request_success_total{finished_reason="stop",model="big"} 1.0' in metrics
    said = [json.loads(record.getMessage()) for record in caplog.records if record.name == "platen.guards"]
    assert {(line["model"], line["version"], line["direction"]) for line in said} == {
        ("big", "upstream", "input")
    }
    assert not any(secret in record.getMessage() for record in caplog.records for secret in SECRETS)


@pytest.mark.parametrize("action", ["mask", "refuse"])
def test_guards_look_over_what_upstreams_answer(
    action: str, scripted: ScriptedEngine, tiny_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_upstream(
        chat("Write to a@b.example."), chat_stream("Write to a", "@b.exam", "ple.", " Bye")
    ) as fake:
        settings = {
            "drain_seconds": 1,
            "upstreams": [upstream("big", fake.url)],
            "guards": {"secrets": {"output": action}},
        }
        with (
            serving(scripted, tiny_tokenizer, ServeConfig.model_validate(settings)) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
        ):
            whole = client.chat.completions.create(model="big", messages=MESSAGES).choices[0]
            chunks = client.chat.completions.create(model="big", messages=MESSAGES, stream=True)
            pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
            metrics = httpx.get(f"{server.url}/metrics").text
    streamed = "".join(piece.delta.content or "" for piece in pieces)
    if action == "mask":
        assert (whole.message.content, whole.finish_reason) == ("Write to [EMAIL].", "stop")
        assert (streamed, pieces[-1].finish_reason) == ("Write to [EMAIL]. Bye", "stop")
    else:
        assert (whole.message.content, whole.finish_reason) == ("Write to ", "content_filter")
        assert (streamed, pieces[-1].finish_reason) == ("Write to ", "content_filter")
        assert 'finished_reason="content_filter",model="big"} 1.0' in metrics
    said = [json.loads(record.getMessage()) for record in caplog.records if record.name == "platen.guards"]
    found = {(line["model"], line["version"], line["direction"], line["rule"]) for line in said}
    assert found == {("big", "upstream", "output", "email")}


def test_a_guard_can_refuse_what_is_to_leave(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> None:
    with fake_upstream() as fake:
        settings = {
            "drain_seconds": 1,
            "upstreams": [upstream("big", fake.url, redact=True)],
            "guards": {"secrets": {"input": "refuse"}},
        }
        with (
            serving(scripted, tiny_tokenizer, ServeConfig.model_validate(settings)) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.BadRequestError) as error,
        ):
            client.completions.create(model="big", prompt="mail a@b.example")
        assert error.value.code == "content_filter"
        assert fake.requests == []
