"""The `vllm` engine against a fake of vLLM: its child's life, and what goes over the wire.

What a real vLLM does with a GPU is not tested here.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from platen.core.errors import ConfigError
from platen.engines.protocol import EngineFailed, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.vllm import engine as vllm
from platen.engines.vllm import process as vllm_child
from platen.engines.vllm.config import VllmConfig
from platen.engines.vllm.engine import VllmEngine
from platen.engines.vllm.process import VllmChild, VllmError
from platen.engines.vllm.wire import VllmRefused, read_chunk, request_body
from platen.prompts.structured import Grammar

FAKE = [sys.executable, str(Path(__file__).parent / "fake_vllm.py")]


class Numbers:
    """Each token's text is its number in angle brackets."""

    def push(self, ids: Any) -> str:
        return "".join(f"<{token}>" for token in ids)

    def finish(self) -> str:
        return ""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fake]:
    fake = Fake(monkeypatch, tmp_path)
    yield fake
    _wait_until_gone(fake)


class Fake:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._monkeypatch, self._file = monkeypatch, tmp_path / "pids"
        monkeypatch.setenv("FAKE_VLLM_PIDS", str(self._file))

    def ask(self, behaviour: str) -> None:
        self._monkeypatch.setenv("FAKE_VLLM", behaviour)

    def pids(self) -> list[int]:
        return [int(line) for line in self._file.read_text().split()] if self._file.exists() else []

    def engine(self, **options: Any) -> VllmEngine:
        child = VllmChild(Path("/models/tiny"), VllmConfig(**options), 4, FAKE)
        return VllmEngine(
            child,
            context_window=128,
            vocab_size=320,
            new_detokenizer=lambda _: Numbers(),
            token_text=str,
            backoff=0.01,
        )


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until_gone(fake: Fake) -> None:
    """What was killed takes a moment to be gone."""
    deadline = time.monotonic() + 10
    while any(map(_alive, fake.pids())):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.02)


def request(name: str, count: int = 5, first: int = 2, **options: Any) -> GenerationRequest:
    return GenerationRequest(name, [first, 3, 4], SamplingParams(max_tokens=count, **options))


async def collect(stream: AsyncIterator[TokenEvent]) -> tuple[list[int], str, TokenEvent]:
    tokens: list[int] = []
    text = ""
    async for event in stream:
        tokens += event.token_ids
        text += event.text
    return tokens, text, event


async def test_a_child_is_started_used_and_stopped_with_all_that_it_started(fake: Fake) -> None:
    fake.ask("worker")
    engine = fake.engine(tensor_parallel_size=2, max_model_len=64)
    tokens, text, last = await collect(engine.submit(request("a")))
    assert (tokens, text, last.finish_reason) == ([10, 11, 12, 13, 14], "<10><11><12><13><14>", "length")
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 5)
    _, text, last = await collect(engine.submit(request("b", 50, stop=("2><13",))))
    assert (text, last.finish_reason) == ("<10><11><1", "stop")
    assert len(fake.pids()) == 2
    await engine.close()
    with pytest.raises(EngineFailed):
        engine.submit(request("late"))


async def test_a_child_that_does_not_listen_to_sigterm_is_killed(fake: Fake) -> None:
    fake.ask("stubborn worker")
    child = VllmChild(Path("/models/tiny"), VllmConfig(), 4, FAKE)
    await child.start()
    await child.stop(grace=0.2)


def test_a_refusal_to_start_shows_the_end_of_the_log(fake: Fake) -> None:
    fake.ask("refuse")
    with pytest.raises(VllmError, match=r"exit code 1; its log ends\n(.*\n)*.*No CUDA GPUs are available"):
        fake.engine()


def test_a_start_that_takes_too_long_is_given_up(fake: Fake) -> None:
    fake.ask("late worker")
    with pytest.raises(VllmError, match=r"not ready after 1 seconds"):
        fake.engine(start_seconds=1)


async def test_a_crash_fails_what_was_being_written_and_the_next_request_finds_a_new_child(
    fake: Fake,
) -> None:
    fake.ask("crash")
    engine = fake.engine()
    try:
        stream = engine.submit(request("a", first=1))
        got = [(await anext(stream)).token_ids for _ in range(3)]
        assert got == [(10,), (11,), (12,)]
        with pytest.raises(EngineFailed):
            await collect(stream)
        tokens, _, _ = await collect(engine.submit(request("b")))
        assert tokens == [10, 11, 12, 13, 14]
        assert engine.stats().extra["restarts"] == 1
        assert not engine.stats().failed
    finally:
        await engine.close()


async def test_a_child_that_never_comes_back_breaks_the_engine(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "MAX_CRASHES", 2)
    fake.ask("crash")
    engine = fake.engine()
    fake.ask("refuse")
    try:
        with pytest.raises(EngineFailed):
            await collect(engine.submit(request("a", first=1)))
        with pytest.raises(EngineFailed):
            await collect(engine.submit(request("waits")))
        assert engine.stats().failed
    finally:
        await engine.close()


def test_it_never_outlives_this_program(fake: Fake, tmp_path: Path) -> None:
    fake.ask("worker")
    program = """
import asyncio, sys, time
from pathlib import Path
from platen.engines.vllm.process import VllmChild, VllmConfig
async def main():
    await VllmChild(Path("/m"), VllmConfig(), 4, sys.argv[1:]).start()
    print("ready", flush=True)
    time.sleep(600)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program, *FAKE], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(fake)
    assert len(fake.pids()) == 2


def test_without_vllm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_child.shutil, "which", lambda _: None)
    monkeypatch.setattr(vllm_child.sys, "executable", "/nowhere/python")
    with pytest.raises(ConfigError, match="not installed"):
        vllm_child.find_vllm()


def test_a_request_becomes_vllms_own() -> None:
    params = SamplingParams(
        temperature=0.5,
        seed=2**64 - 1,
        logit_bias=((7, 2.0),),
        logprobs=2,
        max_tokens=9,
        min_tokens=20,
        grammar=Grammar("regex", "a+"),
    )
    body = request_body(GenerationRequest("r", [1, 2], params), 9, (0, 5), "platen")
    assert body["prompt"] == [1, 2]
    assert body["seed"] == -1
    assert body["logit_bias"] == {"7": 2.0}
    assert body["structured_outputs"] == {"regex": "a+"}
    assert (body["min_tokens"], body["max_tokens"], body["stop_token_ids"]) == (9, 9, [0, 5])
    assert "echo" not in body
    with pytest.raises(ValueError, match="typical_p"):
        request_body(GenerationRequest("r", [1], SamplingParams(typical_p=0.5)), 9, (), "platen")


def test_log_probabilities_come_back_as_ids() -> None:
    logprobs = {
        "tokens": ["token_id:1", "token_id:2", "token_id:9"],
        "token_logprobs": [None, -1.5, -0.5],
        "top_logprobs": [None, {"token_id:2": -1.5, "token_id:8": -0.25}, {"token_id:9": -0.5}],
        "text_offset": [0, 1, 2],
    }
    choice = {"index": 0, "text": "x", "logprobs": logprobs, "finish_reason": None, "token_ids": [9]}
    data = json.dumps({"choices": [choice]})
    asked = GenerationRequest("r", [1, 2], SamplingParams(logprobs=1), prompt_logprobs=1)
    chunk = read_chunk(data, asked, first=True)
    assert [(s.token_id, s.logprob) for s in chunk.prompt] == [(1, None), (2, -1.5)]
    assert chunk.prompt[1].top == ((8, -0.25), (2, -1.5))
    assert [(s.token_id, s.logprob) for s in chunk.tokens] == [(9, -0.5)]


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"choices": [{"logprobs": 3}]}', '{"error": {"message": "no"}}']
)
def test_what_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises(VllmRefused):
        read_chunk(data, request("r"), first=True)
