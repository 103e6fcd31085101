"""Servers in processes of their own, ours and llama.cpp's, and what is asked of them over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

CLIENT = httpx.Client(verify=False, timeout=600)  # loading certificates takes longer than a first token
PROMPT_TOKENS = 250


@dataclass(frozen=True)
class Load:
    """How much is asked of each contestant."""

    new_tokens: int
    rounds: int
    vocab_size: int

    def prompts(self, count: int, seed: int) -> list[list[int]]:
        """Prompts that share nothing with any other seed's."""
        generator = np.random.default_rng(seed)
        return generator.integers(3, self.vocab_size, (count, PROMPT_TOKENS)).tolist()


@contextlib.contextmanager
def platen_server(folder: Path) -> Iterator[str]:
    """`platen serve` of a folder; its address."""
    command = [sys.executable, "-m", "platen", "serve", str(folder), "--port", "0", "--name", "bench"]
    with _process(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"answers at .*?(http://[\d.:]+)", line):
                break
        else:
            raise RuntimeError("platen serve ended early")
        _wait_for(f"{found[1]}/health")
        yield found[1]


@contextlib.contextmanager
def llama_cpp_server(file: Path) -> Iterator[str]:
    """llama-cpp-python's own server on a free port; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(file), "--port", str(port)]
    command += ["--n_ctx", "1024", "--n_threads", str(os.cpu_count()), "--verbose", "false"]
    command += ["--interrupt_requests", "false"]  # or a second request ends the first
    with _process(command):
        _wait_for(f"http://127.0.0.1:{port}/v1/models")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def other_server(command: list[str], port: int) -> Iterator[str]:
    """Another server that speaks OpenAI's protocol, once it is healthy; its address."""
    with _process(command):
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def http_throughput(
    url: str, model: str, prompts: Sequence[str | list[int]], load: Load, *, beyond: bool = True
) -> float:
    """Tokens a second over all requests, sent at once; `beyond`: end tokens don't end a response."""

    async def one(client: httpx.AsyncClient, prompt: str | list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": load.new_tokens, "temperature": 0}
        if beyond:
            body["ignore_eos"] = True
        answer = await client.post(f"{url}/v1/completions", json=body, timeout=600)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    async def everyone() -> float:
        async with httpx.AsyncClient(verify=False) as client:
            began = time.perf_counter()
            tokens = sum(await asyncio.gather(*(one(client, prompt) for prompt in prompts)))
            return tokens / (time.perf_counter() - began)

    return asyncio.run(everyone())


def http_texts(url: str, prompts: Sequence[list[int]], load: Load) -> list[str]:
    """The texts of one request with several prompts, each the likeliest."""
    body = {"model": "bench", "prompt": prompts, "max_tokens": load.new_tokens, "temperature": 0}
    answer = CLIENT.post(f"{url}/v1/completions", json=body | {"ignore_eos": True})
    answer.raise_for_status()
    return [choice["text"] for choice in sorted(answer.json()["choices"], key=lambda c: c["index"])]


def http_stream(url: str, prompt: list[int], load: Load) -> tuple[float, float]:
    """Of one streamed request: prompt tokens a second up to the first token, then tokens a second.

    A plain socket: a client library would take the cores that the engine computes on.
    """
    body = {"model": "bench", "prompt": prompt, "max_tokens": load.new_tokens, "temperature": 0}
    content = json.dumps(body | {"ignore_eos": True, "stream": True}).encode()
    address = urlsplit(url)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(content)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    first = last = 0.0
    with socket.create_connection((address.hostname, address.port)) as connection:
        began = time.perf_counter()
        connection.sendall(head.encode() + content)
        while piece := connection.recv(65536):
            if b"data: {" in piece:
                last = time.perf_counter()
                first = first or last
    return len(prompt) / (first - began), (load.new_tokens - 1) / (last - first)
