"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, serving
from tests.toolmodels import MARKERS, TEMPLATES, tokenizer_with


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def test_a_text_and_back(http: httpx.Client, tiny_tokenizer: Tokenizer) -> None:
    text = "To be, né 🦜"
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    ids = tiny_tokenizer.encode(text)
    assert answer == {
        "count": len(ids),
        "max_model_len": 128,
        "tokens": ids,
        "token_strs": [tiny_tokenizer.token_text(id) for id in ids],
    }
    assert http.post("/detokenize", json={"model": "tiny", "tokens": ids}).json() == {"prompt": text}
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    assert http.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []


def test_special_tokens_are_kept(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={"prompt": "<|end|>", "add_special_tokens": False}).json()[
        "tokens"
    ] == [0]
    assert http.post("/detokenize", json={"tokens": [0]}).json() == {"prompt": "<|end|>"}


def test_a_conversation_is_what_a_chat_reads(http: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be"}]
    counted = http.post("/tokenize", json={"model": "tiny", "messages": messages}).json()["count"]
    chat = http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, "max_tokens": 1})
    assert counted == chat.json()["usage"]["prompt_tokens"]


def test_tools_and_the_beginning_of_the_answer() -> None:
    tokenizer = tokenizer_with(template=TEMPLATES["tags"], special=MARKERS["tags"])
    messages = [{"role": "user", "content": "Rain?"}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    with serving(ScriptedEngine([]), tokenizer) as server, httpx.Client(base_url=server.url) as http:
        body = {"messages": messages, "tools": tools}
        text = tokenizer.decode(http.post("/tokenize", json=body).json()["tokens"])
        assert text == "Functions: weather[user: Rain?][assistant:"
        text = tokenizer.decode(
            http.post("/tokenize", json={**body, "add_generation_prompt": False}).json()["tokens"]
        )
        assert text == "Functions: weather[user: Rain?]"


def test_what_is_known_of_the_tokenizer(http: httpx.Client) -> None:
    info = http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["pad_token"], info["bos_token"]) == ("<|end|>", "<|end|>", None)
    assert (info["vocab_size"], info["max_model_len"], info["chat_template"]) == (320, 128, None)


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, {"prompt": "\ud800"}]
)
def test_a_text_or_a_conversation(http: httpx.Client, body: dict[str, object]) -> None:
    answer = http.post("/tokenize", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    if "prompt" not in body or "messages" in body:
        assert answer.json()["error"]["message"] == "Either 'prompt' or 'messages' is needed."


def test_an_unknown_model(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={"model": "other", "prompt": "x"}).status_code == 404
    assert http.post("/detokenize", json={"model": "other", "tokens": []}).status_code == 404


def test_ids_that_no_token_has(http: httpx.Client) -> None:
    assert http.post("/detokenize", json={"tokens": [2**31 - 1]}).json() == {"prompt": ""}
    assert http.post("/detokenize", json={"tokens": [-1]}).status_code == 400
