"""The terminal's client against a running server, and against what is none."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from platen.cli import chat as chat_command
from platen.engines.protocol import SamplingParams
from platen.serve.client import ChatClient, RemoteError
from platen.serve.config import ServeConfig
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until

HELLO = [{"role": "user", "content": "Hello"}]
SAMPLING = SamplingParams(temperature=0.5, top_p=0.9, top_k=7, seed=3, max_tokens=4, stop=("x",))


def test_an_answer_streams_with_its_settings(
    scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    for url in (scripted_server.url, scripted_server.url + "/v1/"):
        client = ChatClient(url)
        assert client.model() == "tiny"
        pieces = [piece for piece in client.stream(HELLO, SAMPLING) if piece]
        assert pieces == scripted.pieces[:4]
        client.close()
    assert scripted.requests[0].sampling == SAMPLING


def test_only_a_newline_ends_an_event(tiny_tokenizer: Tokenizer) -> None:
    pieces = ["one\u2028line, ", "a\x85b\x0cc", " end"]
    with serving(ScriptedEngine(pieces), tiny_tokenizer) as running:
        client = ChatClient(running.url)
        assert [piece for piece in client.stream(HELLO, SamplingParams(max_tokens=None)) if piece] == pieces
        client.close()


def test_closing_the_answer_stops_the_servers_work(
    scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.seconds_per_piece = 0.05
    client = ChatClient(scripted_server.url)
    answer = client.stream(HELLO, SamplingParams(max_tokens=None))
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    wait_until(lambda: not scripted.running)
    assert scripted.cancelled
    client.close()


def test_refusals_and_failures_are_told(scripted: ScriptedEngine, scripted_server: RunningServer) -> None:
    client = ChatClient(scripted_server.url)
    scripted.full_for = 2
    with pytest.raises(RemoteError, match="its queue is full") as busy:
        list(client.stream(HELLO, SAMPLING))
    assert busy.value.hint == "Try again in 2 s."
    scripted.full_for, scripted.break_after = None, 2
    with pytest.raises(RemoteError, match="failed while it worked"):
        list(client.stream(HELLO, SAMPLING))
    with pytest.raises(RemoteError, match="'other' does not exist here"):
        list(ChatClient(scripted_server.url, model="other").stream(HELLO, SAMPLING))


@pytest.mark.parametrize("watched", [False, True])
def test_an_error_ends_a_conversation_that_nobody_watches(
    scripted: ScriptedEngine,
    scripted_server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    watched: bool,
) -> None:
    scripted.break_after = 2
    piped = io.StringIO("Hello?\nAre you there?\n")
    piped.isatty = lambda: watched  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", piped)
    with nullcontext() if watched else pytest.raises(RemoteError, match="failed while it worked"):
        chat_command.command(url=scripted_server.url)
    assert len(scripted.requests) == (2 if watched else 1)
    assert capsys.readouterr().err.count("failed while it worked") == (2 if watched else 0)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "not an address", "http://"])
def test_no_server(url: str) -> None:
    with pytest.raises(RemoteError, match="can't reach") as gone:
        ChatClient(url).model()
    assert "platen serve" in str(gone.value)


def test_a_server_that_asks_for_a_key(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = ServeConfig(keys="required", drain_seconds=1)
    with (
        serving(scripted, tiny_tokenizer, config, project_dir=tmp_path) as server,
        pytest.raises(RemoteError, match="asks for an API key") as refused,
    ):
        ChatClient(server.url).model()
    assert "PLATEN_API_KEY" in (refused.value.hint or "")
