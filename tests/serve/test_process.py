"""A server in a process of its own: signals, draining, exit codes, taken ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from platen.core.state.embedded import EmbeddedState
from platen.serve.access.keys import Grant
from platen.serve.access.keystore import KeyStore
from platen.serve.config import ServeConfig
from platen.serve.server import ServeError, listen, serve_bundle
from tests.serve.running import wait_until

PROGRAM = Path(__file__).parent / "slow_server.py"


@contextmanager
def process(
    bundle: Path, *, seconds_per_step: float, drain_seconds: float, project: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    server = subprocess.Popen(
        [
            *(sys.executable, str(PROGRAM), str(bundle), str(seconds_per_step), str(drain_seconds)),
            *([str(project)] if project else []),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), server.stderr and server.stderr.read()
        yield server, url
    finally:
        server.kill()
        server.wait()


def test_sigterm_lets_the_running_stream_finish_and_exits_0(tiny_bundle: Path) -> None:
    with process(tiny_bundle, seconds_per_step=0.02, drain_seconds=20) as (server, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(
            model="tiny",
            prompt="To be",
            max_tokens=60,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        next(iter(stream))
        server.send_signal(signal.SIGTERM)
        refused = _status_once_draining(url)
        pieces = list(stream)
        client.close()
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens == 60
        assert refused == 503
        output, errors = server.communicate(timeout=20)
        assert (server.returncode, output, errors) == (0, "", "")


def test_an_idle_server_stops_at_once_and_frees_its_port(tiny_bundle: Path) -> None:
    with process(tiny_bundle, seconds_per_step=0, drain_seconds=30) as (server, url):
        health = httpx.get(f"{url}/health").json()
        assert (health["status"], health["tokens_generated"]) == ("ok", 4)  # it has warmed up
        server.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert server.wait(20) == 0
        assert time.monotonic() - started < 15  # of the 30 it would give what runs
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_keys_have_used_outlives_the_server(tiny_bundle: Path, tmp_path: Path, end: int) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    _, key = store.create(Grant("alice", "alice"))
    with process(tiny_bundle, seconds_per_step=0, drain_seconds=5, project=tmp_path) as (server, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            for _ in range(5):
                client.completions.create(model="tiny", prompt=[1, 2, 3], max_tokens=4)
        if end == signal.SIGKILL:
            wait_until(lambda: sum(s.requests for s in store.read().spent.values()) == 5)
        server.send_signal(end)
        server.wait(20)
        [spent] = store.read().spent.values()
        assert (spent.requests, spent.prompt_tokens) == (5, 15)


def test_a_taken_port_is_said_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"127.0.0.1:{port}") as refused:
            serve_bundle(
                Path("/nowhere"), name="tiny", config=ServeConfig(port=port), on_ready=lambda _: None
            )
    assert f"--port {port + 1}" in str(refused.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machines(host: str) -> None:
    with pytest.raises(ServeError, match=host) as refused:
        listen(host, 0)
    assert "127.0.0.1" in str(refused.value.hint)


def _status_once_draining(url: str) -> int:
    """What new work is told, from the moment that the signal has arrived."""
    deadline = time.monotonic() + 5
    while httpx.get(f"{url}/health").status_code == 200:
        assert time.monotonic() < deadline, "the server does not drain"
        time.sleep(0.02)
    return httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}).status_code
