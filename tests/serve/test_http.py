"""Errors, limits and headers on the wire, and arbitrary JSON bodies."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platen.tokens.tokenizer import Tokenizer
from tests.serve.conftest import random_server
from tests.serve.fuzzing import json_values, posts, schemas
from tests.serve.running import RunningServer, ScriptedEngine, wait_until
from tests.toolmodels import MARKERS, TEMPLATES, tokenizer_with

COMPLETION = {"model": "tiny", "prompt": "To be", "max_tokens": 2}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "To be"}], "max_tokens": 2}


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object; asserts that it is one."""
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def refusal_of(path: str, response: httpx.Response) -> str:
    """What an error says; the Open Inference Protocol has it in a form of its own."""
    if not path.startswith("/v2"):
        return str(error_of(response)["message"])
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert body["error"]
    return str(body["error"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/static/../app.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/app.py", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("TRACE", "/health", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("PUT", "/static/app.js", 405, "method_not_allowed"),
    ],
)
def test_wrong_addresses(http: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b'{"model": "tiny", ', "application/json", "invalid_json"),
        (b"\xff\xfe", "application/json", "invalid_json"),
        (b'"text"', "application/json", "invalid_body"),
        (b"[1]", "application/json", "invalid_body"),
        (b"", "application/json", "invalid_body"),
        (json.dumps(COMPLETION).encode(), "text/plain", "invalid_body"),
        (b"[" * 50_000, "application/json", None),
        (b'{"seed": ' + b"9" * 5_000 + b"}", "application/json", None),
    ],
)
def test_bodies_that_are_no_request(
    http: httpx.Client, body: bytes, content_type: str, code: str | None
) -> None:
    response = http.post("/v1/completions", content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    assert error_of(response)["code"] == code


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("completions", {"prompt": None}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": [1, "a"]}, "prompt"),
        ("completions", {"prompt": [[]]}, "prompt"),
        ("completions", {"prompt": [999_999]}, "prompt"),
        ("completions", {"prompt": "\ud800"}, "prompt"),
        ("completions", {"max_tokens": -1}, "max_tokens"),
        ("completions", {"max_tokens": "2"}, "max_tokens"),
        ("completions", {"max_tokens": True}, "max_tokens"),
        ("completions", {"temperature": float("nan")}, "temperature"),
        ("completions", {"top_p": 0}, "top_p"),
        ("completions", {"n": 0}, "n"),
        ("completions", {"n": 100}, "n"),
        ("completions", {"prompt": ["a"] * 100}, "prompt"),
        ("completions", {"seed": 2**63}, "seed"),
        ("completions", {"stop": ["a"] * 17}, "stop"),
        ("completions", {"stop": [""]}, "stop"),
        ("completions", {"stream_options": {"more": 1}}, "stream_options.more"),
        ("completions", {"presence_penalty": 2.5}, "presence_penalty"),
        ("completions", {"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        ("completions", {"suffix": "end"}, "suffix"),
        ("completions", {"best_of": 1, "n": 2}, "best_of"),
        ("completions", {"best_of": 3, "stream": True}, "best_of"),
        ("completions", {"model": "other"}, "model"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}] * 2049}, "messages"),
        ("chat/completions", {"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ("chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
        ),
        ("chat/completions", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("completions", {"response_format": {"type": "regex", "pattern": "("}}, "response_format"),
        ("completions", {"logit_bias": {"999999": 1}}, "logit_bias"),
        ("chat/completions", {"functions": [{}]}, "functions"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"modalities": ["audio"]}, "modalities"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
def test_a_wrong_field_is_named(http: httpx.Client, path: str, change: dict[str, Any], param: str) -> None:
    body = {**(COMPLETION if path == "completions" else CHAT), **change}
    response = http.post(
        f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == (404 if param == "model" else 400)
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    "neutral",
    [
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
        {"stop": None, "seed": None, "n": None, "temperature": None, "stream": None, "top_p": None},
        {"seed": -5, "top_k": 3, "stop": []},
    ],
)
def test_what_changes_nothing_is_accepted(http: httpx.Client, neutral: dict[str, Any]) -> None:
    assert http.post("/v1/chat/completions", json={**CHAT, **neutral}).status_code == 200


def test_large_bodies_are_refused_announced_or_not(http: httpx.Client) -> None:
    announced = http.post("/v1/completions", json={**COMPLETION, "prompt": "x" * 100_000})
    assert (announced.status_code, error_of(announced)["code"]) == (413, "body_too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 5_000

    chunked = http.post("/v1/completions", content=chunks(), headers={"content-type": "application/json"})
    assert (chunked.status_code, error_of(chunked)["code"]) == (413, "body_too_large")


def test_only_its_own_page_and_names_are_served(http: httpx.Client, server: RunningServer) -> None:
    port = httpx.URL(server.url).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[", ""):
        response = http.get("/v1/models", headers={"host": host})
        assert (response.status_code, error_of(response)["code"]) == (403, "host_not_allowed")
    for origin in ("http://evil.example", "null", "http://[", f"http://localhost:{port}"):
        response = http.post("/v1/completions", json=COMPLETION, headers={"origin": origin})
        assert (response.status_code, error_of(response)["code"]) == (403, "origin_not_allowed")
    assert http.post("/v1/completions", json=COMPLETION, headers={"origin": server.url}).status_code == 200
    assert http.get("/v1/models", headers={"host": f"localhost:{port}"}).status_code == 200
    assert "access-control-allow-origin" not in http.get("/v1/models").headers


def test_health(http: httpx.Client) -> None:
    health = http.get("/health").json()
    assert (health["status"], health["models"], health["running"]) == ("ok", ["tiny"], 0)


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/models", "/v1/models/tiny", "/static/app.js", "/nothing"]
)
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert http.head("/v1/completions").headers["allow"] == "POST"


@pytest.mark.parametrize("count", [13, 30_000])
def test_more_prompts_than_could_ever_run_are_refused_unread(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Their tokenization would hold up every stream."""
    read: list[str] = []
    monkeypatch.setattr(Tokenizer, "encode", lambda _, text, **options: read.append(text))
    response = http.post("/v1/completions", json={**COMPLETION, "prompt": [""] * count})
    assert (response.status_code, error_of(response)["param"]) == (400, "prompt")
    assert read == []


def test_a_broken_engine_is_told(scripted: ScriptedEngine, scripted_server: RunningServer) -> None:
    scripted.failed = True
    with httpx.Client(base_url=scripted_server.url) as http:
        response = http.post("/v1/completions", json=COMPLETION)
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_stopped")
        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")


def test_health_while_draining(scripted: ScriptedEngine, scripted_server: RunningServer) -> None:
    scripted.seconds_per_piece = 0.2
    body = {**COMPLETION, "stream": True, "max_tokens": 99}
    with (
        httpx.Client(base_url=scripted_server.url) as http,
        http.stream("POST", "/v1/completions", json=body) as stream,
    ):
        next(stream.iter_lines())
        scripted_server.state.start_draining(20)
        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")


def test_the_schema_lists_the_api(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert {"/v1/models", "/v1/completions", "/v1/chat/completions", "/health"} <= set(schema["paths"])
    known = schema["components"]["schemas"]
    assert "messages" in known["ChatRequest"]["properties"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)):
        assert name in known
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert operation["description"]
            assert "422" not in operation["responses"]  # an error is OpenAI's error object
            assert "4XX" in operation["responses"]
    answers = schema["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert answers["text/event-stream"]["schema"]["title"] == "ChatChunk"


def test_the_page_brings_everything_itself(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "https://" not in page.text
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("value", ["bytes=0-9", "bytes=9-0", "nonsense"])
def test_files_come_whole(http: httpx.Client, value: str) -> None:
    """A malformed range used to be refused, and not with an error object."""
    for path in ("/", "/static/app.js"):
        response = http.get(path, headers={"range": value})
        assert (response.status_code, response.content) == (200, http.get(path).content)


def test_the_wire_form_of_a_stream(http: httpx.Client) -> None:
    response = http.post("/v1/completions", json={**COMPLETION, "temperature": 0, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "text_completion"


@pytest.fixture(scope="module")
def able() -> Iterator[httpx.Client]:
    """A server whose model was made for all that can be asked for: tools, and filling in the middle."""
    special = [*MARKERS["tags"], "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    tokenizer = tokenizer_with(template=TEMPLATES["tags"], special=special)
    with random_server(tokenizer, window=48) as server, httpx.Client(base_url=server.url, timeout=20) as http:
        yield http


@pytest.fixture(scope="module")
def bodies(able: httpx.Client) -> dict[str, st.SearchStrategy[Any]]:
    return posts(able.get("/openapi.json").json())


def send(http: httpx.Client, path: str, body: Any) -> httpx.Response:
    address = path.replace("{model}", "tiny").replace("{version}", "1")
    return http.post(address, content=json.dumps(body), headers={"content-type": "application/json"})


def answers(http: httpx.Client, path: str, body: Any) -> None:
    """Whatever is asked, it is answered or refused."""
    response = send(http, path, body)
    if response.status_code != 200:
        assert response.status_code in (400, 404)
        refusal_of(path, response)
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n") or "\nevent: response." in response.text
        assert not re.search(r'^data: {"error"|"response.failed"', response.text, re.MULTILINE)
    else:
        assert response.json()


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_no_body_breaks_the_server(
    able: httpx.Client, bodies: dict[str, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    """Bodies for every address that takes any, by the server's own description."""
    path = data.draw(st.sampled_from(sorted(bodies)))
    answers(able, path, data.draw(bodies[path]))


@given(parameters=schemas, choice=st.sampled_from(["auto", "required"]), strict=st.booleans())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_schema_of_a_function_is_held_to_or_refused(
    able: httpx.Client, parameters: Any, choice: str, strict: bool
) -> None:
    function = {"name": "f", "parameters": parameters, "strict": strict}
    tools = [{"type": "function", "function": function}]
    answers(able, "/v1/chat/completions", {**CHAT, "tools": tools, "tool_choice": choice})


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
def test_not_one_of_many_bodies_breaks_the_server(
    able: httpx.Client, bodies: dict[str, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(bodies)))
    answers(able, path, data.draw(bodies[path]))


@given(body=json_values)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_breaks_the_server(
    able: httpx.Client, bodies: dict[str, st.SearchStrategy[Any]], body: Any
) -> None:
    for path in bodies:
        response = send(able, path, body)
        assert response.status_code in (400, 404)
        refusal_of(path, response)


def test_every_address_that_takes_a_body_is_fuzzed(bodies: dict[str, st.SearchStrategy[Any]]) -> None:
    assert {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
        "/v1/embeddings",
        "/v2/models/{model}/infer",
    } <= bodies.keys()


methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
known_paths = ["/", "/health", "/openapi.json", "/static/app.js", "/v1/models", "/v1/models/tiny"]
known_paths += ["/v1/completions", "/v1/chat/completions", "/v1/responses"]
known_paths += ["/tokenize", "/detokenize", "/tokenizer_info"]
paths = st.sampled_from(known_paths) | st.builds(
    "{}/{}".format,
    st.sampled_from(known_paths),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"])),
)
any_bytes = st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), json_values)
header_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
headers = st.dictionaries(
    st.sampled_from(
        ["accept", "content-encoding", "content-type", "expect", "if-none-match", "range", "x-forwarded-for"]
    ),
    st.sampled_from(["application/json", "gzip", "100-continue", "bytes=0-5", "*"]) | header_values,
    max_size=3,
)


@given(method=methods, path=paths, body=any_bytes, headers=headers)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_breaks_the_server(
    http: httpx.Client, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    url = str(http.base_url).rstrip("/") + path.replace("#", "%23").replace("?", "%3F")
    response = http.request(method, url, content=body, headers=headers)
    assert response.status_code < 500
    if response.status_code >= 400 and method != "HEAD":
        error_of(response)


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_broken_http_leaves_no_work_behind(server: RunningServer, http: httpx.Client, sent: bytes) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while answer := connection.recv(65_536):
            assert not answer.startswith(b"HTTP/1.1 5")
    wait_until(lambda: server.state.active == 0)
    assert http.post("/v1/completions", json=COMPLETION).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v2/models/tiny/infer"])
def test_a_client_that_leaves_while_it_sends_is_no_failure(scripted_server: RunningServer, path: str) -> None:
    host, port = scripted_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 99"
        client.sendall(f"{head}\r\n\r\n{{".encode())
    with httpx.Client(base_url=scripted_server.url) as http:

        def statuses() -> set[str]:
            return set(re.findall(r'platen_requests_total\{.*status="(\d+)"', http.get("/metrics").text))

        wait_until(lambda: bool(statuses() - {"200"}))
        assert not any(status.startswith("5") for status in statuses())
