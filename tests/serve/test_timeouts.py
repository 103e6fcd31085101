"""Clients that dawdle and answers that take too long: each ends in time, and its work with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

from platen.models.arch.decoder import Decoder
from platen.serve.config import ServeConfig
from platen.tokens.tokenizer import TextStream, Tokenizer
from tests.engines.torch.test_torch_engine import slowed
from tests.engines.torch_engine import TorchEngine
from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@contextmanager
def connected(server: RunningServer, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", httpx.URL(server.url).port))
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def hasty(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    with serving(scripted, tiny_tokenizer, ServeConfig(drain_seconds=1, idle_seconds=0.2)) as running:
        yield running


def test_a_head_that_does_not_come_closes_the_connection(hasty: RunningServer) -> None:
    for begun in (b"", b"POST /v1/comp", HEAD):
        with connected(hasty) as connection:
            connection.sendall(begun)
            assert read_all(connection) == b""


def test_a_body_that_does_not_come_is_answered_408(hasty: RunningServer) -> None:
    with connected(hasty) as connection:
        connection.sendall(HEAD + b'content-length: 100\r\n\r\n{"model":')
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert "0.2 s" in json.loads(body)["error"]["message"]


def test_a_slow_answer_is_no_idle_client(hasty: RunningServer, scripted: ScriptedEngine) -> None:
    scripted.seconds_per_piece = 0.3
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
    assert httpx.post(f"{hasty.url}/v1/completions", json=body).status_code == 200


def test_a_client_that_does_not_read_is_cut_off(tiny_tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(["x" * 500_000] * 10_000)
    engine.seconds_per_piece = 0.01
    with serving(engine, tiny_tokenizer, ServeConfig(drain_seconds=1, idle_seconds=0.2)) as server:
        with connected(server, receive_buffer=4096) as connection:
            body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 10_000, "stream": True}).encode()
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: bool(engine.running))
            wait_until(lambda: bool(engine.cancelled), 10)
            wait_until(lambda: server.state.active == 0)
            assert b"[DONE]" not in read_all(connection)
        assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_stopped_with_504(tiny_tokenizer: Tokenizer, stream: bool) -> None:
    engine = ScriptedEngine(["x"] * 10)
    engine.seconds_per_piece = 5.0
    with (
        serving(engine, tiny_tokenizer, ServeConfig(drain_seconds=1, request_seconds=0.2)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError, match=r"0\.2 s") as refusal:
            client.completions.create(model="tiny", prompt="x", stream=stream)
        assert (refusal.value.status_code, refusal.value.code) == (504, "request_timeout")
        assert engine.cancelled
        wait_until(lambda: server.state.active == 0)


def test_a_stream_that_takes_too_long_ends_with_an_error(tiny_tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(["x"] * 1000)
    engine.seconds_per_piece = 0.02
    with (
        serving(engine, tiny_tokenizer, ServeConfig(drain_seconds=1, request_seconds=0.5)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.completions.create(model="tiny", prompt="x", max_tokens=1000, stream=True)
        next(iter(stream))
        with pytest.raises(openai.APIError, match=r"0\.5 s"):
            list(stream)
        assert engine.cancelled


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_waits_too_long_for_its_turn_is_answered_503(
    tiny_llama: Decoder, tiny_tokenizer: Tokenizer, stream: bool
) -> None:
    engine = TorchEngine(
        tiny_llama,
        new_detokenizer=lambda prompt_ids: TextStream(tiny_tokenizer, after=prompt_ids),
        token_text=tiny_tokenizer.token_text,
        max_concurrent=1,
        max_wait=0.1,
    )
    with (
        slowed(tiny_llama, 0.02),
        serving(engine, tiny_tokenizer) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        running = client.completions.create(model="tiny", prompt="x", max_tokens=50, stream=True)
        next(iter(running))
        with pytest.raises(openai.InternalServerError) as refusal:
            client.completions.create(model="tiny", prompt="x", max_tokens=5, stream=stream)
        assert (refusal.value.status_code, refusal.value.code) == (503, "queue_timeout")
        assert int(refusal.value.response.headers["retry-after"]) >= 1
        assert engine.stats().waiting == 0
        assert len(list(running)) > 20
        assert client.completions.create(model="tiny", prompt="x", max_tokens=5).choices[0].text
